"""mmkit eval"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmkit.cli.engine_options import Model
from mmkit.cli.options import ImageRoot, Seed, Streams
from mmkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmkit.engines import Sampling
    from mmkit.streams.rows import Stage


def command(
    streams: Streams,
    model: Model,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="Of every record. [default: the record's or its benchmark's]"),
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="NAME", help="The metric's variant. [default: its strict one]")
    ] = None,
    per_sample: Annotated[
        bool, typer.Option("--per-sample", help="Write the records with score, rule and parsed answer instead.")
    ] = False,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark", metavar="NAME", help="Ask --model this set's questions (INPUT: a copy), and score."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Of the benchmark. [default: the evaluated one]")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List all benchmarks, and end.")] = False,
    judge: Annotated[
        Literal["mm-vet", "llava-bench"] | None, typer.Option("--judge", help="Have --model grade the predictions.")
    ] = None,
    judge_prompt: Annotated[
        str | None, typer.Option("--judge-prompt", metavar="FILE", help="The judge's prompt. [default: the project's]")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Length of a prediction (--benchmark).")
    ] = 256,
    model_name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The model's name in the rows. [default: its lineage's]"),
    ] = None,
    seed: Seed = 0,
    image_root: ImageRoot = None,
) -> None:
    """Score predictions: a row a task and metric, with a 95 % interval.

    A table on a terminal, rows in a pipe. The rows carry the single scores, so that compare can pair them.

    Example: mmkit eval predictions.jsonl > scores.jsonl
    """
    from mmkit.cli import tables
    from mmkit.engines import Sampling
    from mmkit.evaluation import evaluate, scores
    from mmkit.evaluation.aggregate import Aggregate
    from mmkit.evaluation.scoring import Scorer

    if listed:
        _list(streams.output)
        return
    _refuse_contradictions(model, metric, benchmark, split, judge, judge_prompt)
    collected, scorer = Aggregate(), Scorer(judge or metric, rule)
    on_terminal = not per_sample and tables.on_terminal(streams.output)

    def rows() -> list[scores.ScoreRow]:
        return collected.rows(model=model_name, seed=seed)

    stage = (
        evaluate.per_sample(scorer)
        if per_sample
        else evaluate.collect(scorer, collected, list if on_terminal else rows)
    )

    def show() -> None:
        if on_terminal:
            tables.show(scores.table(rows()))

    if judge is not None:
        _judge(streams, model, judge, judge_prompt, stage, collected.notes, show)
    elif benchmark is not None:
        sampling = Sampling(max_new_tokens=max_new_tokens, seed=seed)
        _ask(streams, model, benchmark, split, sampling, image_root, stage, show)
    else:
        streams.run(stage, resumable=False, notes=collected.notes)
        show()


def _list(output: str | None) -> None:
    from mmkit.cli import tables
    from mmkit.tasks import benchmarks

    rows = (benchmarks.benchmark(name).to_wire() for name in benchmarks.names())
    tables.deliver(rows, benchmarks.listing(), output)


def _judge(
    streams: Streams,
    model: Model,
    judge: str,
    prompt_file: str | None,
    then: Stage,
    notes: Callable[[], list[str]],
    show: Callable[[], None],
) -> None:
    from mmkit.evaluation import judge as judges

    prompt = judges.load_prompt(judge, prompt_file)
    model.answer(streams, lambda name: judges.judge(prompt, name), then=then, notes=notes, show=show, resumable=False)


def _ask(
    streams: Streams,
    model: Model,
    name: str,
    split: str | None,
    sampling: Sampling,
    image_root: str | None,
    then: Stage,
    show: Callable[[], None],
) -> None:
    """Ask a benchmark's questions, made of its rows, and hand the answers to `then`."""
    from mmkit.data import benchmark_sets
    from mmkit.evaluation import judge, predict
    from mmkit.tasks import benchmarks

    definition = benchmarks.benchmark(name)
    if judged := {task.metric for task in definition.tasks.values()} & judge.PROTOCOLS.keys():
        raise UsageError(f"{name} is graded: convert --benchmark {name} | predict | eval --judge {judged.pop()}")
    model.answer(
        streams,
        lambda model_name: predict.predict(model_name, sampling=sampling, image_root=image_root),
        first=benchmark_sets.tasks_of(definition, image_root),
        then=then,
        show=show,
        kind="json",
        inputs=benchmark_sets.inputs_of(definition, streams.inputs or (), split),
        resumable=False,
    )


def _refuse_contradictions(
    model: Model,
    metric: str | None,
    benchmark: str | None,
    split: str | None,
    judge: str | None,
    judge_prompt: str | None,
) -> None:
    """Raise UsageError where two options name two models or metrics, or one has nothing to act on."""
    if benchmark is not None and judge is not None:
        raise UsageError("--benchmark and --judge ask two models: mmkit predict … | mmkit eval --judge …")
    if judge is not None and metric is not None:
        raise UsageError(f"--judge {judge} is scored by the metric of that name; leave --metric out")
    if judge_prompt is not None and judge is None:
        raise UsageError("--judge-prompt needs --judge")
    if split is not None and benchmark is None:
        raise UsageError("--split needs --benchmark")
    idle = sorted(model.given(in_file=False))
    if idle and benchmark is None and judge is None:
        raise UsageError(f"--{idle[0].replace('_', '-')}: no model is asked here; that takes --benchmark or --judge")
