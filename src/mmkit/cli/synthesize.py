"""mmkit synthesize"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mmkit.cli.engine_options import Model
from mmkit.cli.options import ImageRoot, Seed, Streams
from mmkit.errors import UsageError


def command(
    streams: Streams,
    model: Model,
    captions: Annotated[
        str | None, typer.Option("--captions", metavar="FILE", help="Image-caption records; the same as INPUT.")
    ] = None,
    style: Annotated[
        Literal["adamllm"], typer.Option("--style", help="adamllm: instruction, precise and informative response.")
    ] = "adamllm",
    num_samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=1, help="Replies a caption; equal instructions count once.")
    ] = 1,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Length of a reply.")
    ] = 512,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus sampling.")] = 1.0,
    seed: Seed = 0,
    image_root: ImageRoot = None,
) -> None:
    """Make tasks out of image-caption pairs with a synthesizer model.

    A caption record gives a record with question, answer (precise) and rationale (informative), or is dropped if the
    reply holds no instruction under both hints.

    Example: mmkit synthesize --captions pmc.jsonl | mmkit filter > tasks.jsonl
    """
    from mmkit.engines import Sampling
    from mmkit.synthesis.triplets import synthesize

    if captions is not None:
        if streams.inputs:
            raise UsageError("give the captions once: as INPUT or with --captions")
        streams.inputs = [captions]
    if num_samples > 1 and temperature == 0:
        raise UsageError("--samples above 1 needs --temperature above 0: greedy replies are all the same")
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    model.answer(
        streams,
        lambda name: synthesize(name, sampling=sampling, num_samples=num_samples, image_root=image_root),
    )
