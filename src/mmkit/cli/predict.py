"""mmkit predict"""

from __future__ import annotations

from typing import Annotated

import typer

from mmkit.cli.engine_options import Model
from mmkit.cli.options import ImageRoot, Seed, Streams


def command(
    streams: Streams,
    model: Model,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Length of a reply.")
    ] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus sampling.")] = 1.0,
    seed: Seed = 0,
    image_root: ImageRoot = None,
) -> None:
    """Answer every record with a model and add the answer as prediction.

    Asks the messages up to the last answer where a record has them, else the question with its context and choices.

    Example: mmkit predict test.jsonl --model tuned | mmkit eval > scores.jsonl
    """
    from mmkit.engines import Sampling
    from mmkit.evaluation.predict import predict

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    model.answer(streams, lambda name: predict(name, sampling=sampling, image_root=image_root))
