"""mmkit predict"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mmkit.cli.engine_options import Model
from mmkit.cli.options import ImageRoot, Seed, Streams
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from mmkit.evaluation.routing import Route


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
    route: Annotated[
        str | None,
        typer.Option("--route", metavar="FILE", help="Groups: each record goes to the adapter of its task's group."),
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapters",
            metavar="GROUP=DIR,…",
            help="Each group's LoRA adapter. DIR base: the model itself. GROUP other: all tasks that are left.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Answer every record with a model and add the answer as prediction.

    Asks the messages up to the last answer where a record has them, else the question with its context and choices.

    Example: mmkit predict test.jsonl --model tuned | mmkit eval > scores.jsonl

    Example: mmkit predict test.jsonl --model base --route groups.jsonl --adapters redundancy=red,other=base
    """
    from mmkit.engines import Sampling
    from mmkit.evaluation.predict import predict

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    chosen = _route(route, adapters, model)
    model.answer(
        streams,
        lambda name: predict(name, sampling=sampling, image_root=image_root, route=chosen),
        adapters=chosen.adapters if chosen is not None else (),
        identity={"route_digest": chosen.digest()} if chosen is not None else None,
    )


def _route(file: str | None, adapters: list[str] | None, model: Model) -> Route | None:
    if file is None and not adapters:
        return None
    if file is None or not adapters:
        raise UsageError(
            "--route FILE says which group a task is in, --adapters GROUP=DIR,… who answers for it: give both"
        )
    if model.adapter is not None:
        raise UsageError("--adapter answers every row, --route with --adapters each by its group: give one of the two")
    from mmkit.cli.groups_file import read_task_groups
    from mmkit.evaluation.routing import Route, parse_adapters

    return Route(read_task_groups(file), parse_adapters(adapters), file)
