"""mmkit filter"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import typer

from mmkit.cli.engine_options import Model
from mmkit.cli.options import Streams
from mmkit.errors import UsageError


def command(
    streams: Streams,
    model: Model,
    judge: Annotated[
        Literal["model", "contains"],
        typer.Option("--judge", help="model: a language model's verdict; contains: the answer's words, no model."),
    ] = "model",
    keep: Annotated[str, typer.Option("--keep", metavar="VERDICTS", help="Verdicts to keep: yes, no, open.")] = "yes",
    threshold: Annotated[
        float, typer.Option("--threshold", metavar="P", min=0.0, max=1.0, help="Least probability of the verdict.")
    ] = 0.0,
    few_shot: Annotated[
        str | None, typer.Option("--few-shot", metavar="FILE", help="Instruction and examples for the judge, as JSON.")
    ] = None,
    within: Annotated[
        str, typer.Option("--within", metavar="FIELDS", help="Fields in which the answer must occur (contains).")
    ] = "rationale",
) -> None:
    """Keep the tasks whose precise answer agrees with their informative one.

    Kept rows pass unchanged; the others are dropped, with the verdict as the reason in --dropped FILE.

    Example: mmkit filter tasks.jsonl --judge contains --dropped inconsistent.jsonl > consistent.jsonl
    """
    from mmkit.synthesis import consistency

    if judge == "contains":
        if model.to_batch is not None or model.from_batch:
            raise UsageError("--judge contains asks no model, so there is nothing for a batch to answer")
        streams.run(consistency.judge_by_words(within=_listed(within)))
        return
    verdicts = _listed(keep)
    if unknown := set(verdicts) - set(consistency.VERDICTS):
        raise UsageError(f"--keep {unknown.pop()}: expected some of {', '.join(consistency.VERDICTS)}")
    examples = consistency.load_few_shot(few_shot)
    tally: Counter[str] = Counter()
    model.answer(
        streams,
        lambda _: consistency.judge_by_model(examples, keep=verdicts, threshold=threshold, tally=tally),
        identity={"few_shot_text": examples.prefix()},
        notes=lambda: [", ".join(f"{count:,} {verdict}" for verdict, count in tally.most_common())] if tally else [],
    )


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
