"""mmkit weights"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmkit.cli.options import Streams
from mmkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from mmkit.balance.task_measure import TaskMeasure
    from mmkit.balance.weights import Alphas, BySize, TaskWeight
    from mmkit.records import Record
    from mmkit.streams import Row

Strategy = Literal["visatb", "out", "in", "difficulty", "equal", "size", "sqrt-size", "tokens"]


def _temperature(text: object) -> float | str:
    if text == "auto":
        return "auto"
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"expected a number above 0, or auto, got {text!r}")
    return value


def command(
    streams: Streams,
    strategy: Annotated[
        Strategy,
        typer.Option(
            "--strategy", help="visatb and its three parts need C and D; the others numbers of rows or tokens."
        ),
    ] = "visatb",
    temperature: Annotated[
        Any,
        typer.Option(
            "--temperature",
            metavar="T|auto",
            parser=_temperature,
            help="The lower, the farther apart; auto is the lowest with all weights in [0.5, 2.0].",
        ),
    ] = "0.5",
    alpha: Annotated[
        tuple[float, float, float],
        typer.Option("--alpha", metavar="OUT IN D", help="Shares of the three parts of visatb; they sum to 1."),
    ] = (0.25, 0.25, 0.5),
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            "--fixed",
            metavar="TASK=WEIGHT",
            help="Set a task's weight, or a group's; it does not count among the others.",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say on stderr why each task got its weight.")] = False,
) -> None:
    """Weigh tasks by what they give to others, receive from them, and how hard they are (VisATB); or by size.

    Takes the rows of measure-contribution, or any with task, C_out, C_in and D; for size, sqrt-size and tokens those of
    stats, or any with task and rows (tokens: loss_tokens). finetune --weights and mix --weights read what comes out. A
    table on a terminal, rows in a pipe.

    Example: mmkit weights contribution.jsonl --temperature auto --explain > weights.jsonl

    Example: mmkit stats train/*.jsonl --model base | mmkit weights --strategy tokens > weights.jsonl
    """
    from mmkit import console
    from mmkit.balance.reasons import of_fixed
    from mmkit.balance.weights import fixed_tasks, of_each_task, table
    from mmkit.cli import tables
    from mmkit.data.stats.stages import summed

    _refuse_idle(streams, strategy)
    named = _named_weights(fixed or ())
    weighing = _weighing(strategy, temperature, alpha)
    on_terminal = tables.on_terminal(streams.output)
    weights: list[TaskWeight] = []
    weighed = _Weighed()

    def wire() -> list[Record]:
        nonlocal weighed
        set_by_hand = fixed_tasks(named, weighing.members)
        weighed = weighing.weigh(set_by_hand)
        weights.extend(of_each_task(weighed.weights, weighing.members, set_by_hand))
        rule = {"strategy": strategy, **weighed.rule}
        return [] if on_terminal else [weight.to_wire() | ({} if weight.fixed else rule) for weight in weights]

    streams.run(summed(weighing.add, wire), kind="json", resumable=False, notes=lambda: weighed.notes)
    if on_terminal:
        tables.show(table(weights))
    if explain:
        for reason in [*weighed.reasons, *(of_fixed(weight) for weight in weights if weight.fixed)]:
            console.say(reason)


_BY_MEASURE = ("visatb", "out", "in", "difficulty")
_OF_STRATEGY = {"temperature": _BY_MEASURE, "alpha": ("visatb",)}
"""Where an option has a say."""


def _refuse_idle(streams: Streams, strategy: Strategy) -> None:
    """Raise UsageError where the command line gives an option that has nothing to act on."""
    for name, strategies in _OF_STRATEGY.items():
        source = streams.context.get_parameter_source(name)
        if strategy not in strategies and getattr(source, "name", None) == "COMMANDLINE":
            raise UsageError(f"--{name} has no say in --strategy {strategy}")


def _named_weights(fixed: Sequence[str]) -> list[tuple[str, float]]:
    weights = []
    for text in fixed:
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 <= weight < math.inf:
            raise UsageError(f"--fixed: expected TASK=WEIGHT with a weight of 0 or more, got {text!r}")
        weights.append((name, weight))
    return weights


@dataclass(frozen=True, slots=True)
class _Weighed:
    """Weights of tasks or groups, what they were computed with, a sentence for each, and what the summary says."""

    weights: Sequence[TaskWeight] = ()
    rule: Mapping[str, Any] = field(default_factory=dict)
    reasons: Sequence[str] = ()
    notes: Sequence[str] = ()


def _weighing(strategy: Strategy, temperature: float | str, alpha: tuple[float, float, float]) -> _ByMeasure | _BySize:
    from mmkit.balance.weights import Alphas

    if strategy in ("equal", "size", "sqrt-size", "tokens"):
        return _BySize(strategy)
    alphas = {"visatb": alpha, "out": (1.0, 0.0, 0.0), "in": (0.0, 1.0, 0.0), "difficulty": (0.0, 0.0, 1.0)}[strategy]
    return _ByMeasure(Alphas(*alphas), None if temperature == "auto" else float(temperature))


class _ByMeasure:
    """Weighs by C and D. `temperature` None is the lowest that keeps the weights within bounds."""

    def __init__(self, alphas: Alphas, temperature: float | None) -> None:
        self._alphas = alphas
        self._temperature = temperature
        self._measures: dict[str, TaskMeasure] = {}

    @property
    def members(self) -> dict[str, tuple[str, ...]]:
        """The tasks of each group; of a task, itself."""
        return {name: measure.tasks or (name,) for name, measure in self._measures.items()}

    def add(self, row: Row) -> None:
        """Take a row of measure-contribution; those of V and of C are passed over."""
        from mmkit.balance.task_measure import TaskMeasure

        if _is_passed_over(row.record):
            return
        measure = TaskMeasure.from_wire(row.record)
        if measure.task in self._measures:
            raise DataError(f"task {measure.task!r} a second time")
        self._measures[measure.task] = measure

    def weigh(self, fixed: Mapping[str, float]) -> _Weighed:
        """Weigh those that are not fixed."""
        from mmkit.balance import reasons
        from mmkit.balance.weights import counted, lowest_temperature, visatb
        from mmkit.data.strata import listed

        if not self._measures:
            raise DataError("no row has C_out, C_in and D of a task; mmkit measure-contribution makes them")
        measures = [self._measures[name] for name in counted(self.members, fixed)]
        if not measures:
            return _Weighed()
        temperature = self._temperature or lowest_temperature(measures, alphas=self._alphas)
        weights = visatb(measures, temperature=temperature, alphas=self._alphas)
        said = [reasons.of_measure(*pair, self._alphas) for pair in zip(weights, measures, strict=True)]
        flat = [task for measure in measures for task in measure.flat]
        told = [f"flat, so read with care: {listed(flat)}"] if flat else []
        rule = {"temperature": temperature, "alpha": list(astuple(self._alphas))}
        return _Weighed(weights, rule, said, [f"temperature {temperature:.9g}", *_range_notes(weights), *told])


class _BySize:
    """Weighs by rows or loss tokens."""

    def __init__(self, strategy: BySize) -> None:
        self._strategy = strategy
        self._amounts: dict[str, float] = {}
        self.members: dict[str, tuple[str, ...]] = {}
        """The tasks of each group; of a task, itself."""

    def add(self, row: Row) -> None:
        """Add up what a row says of a task; rows of stats that are of no single task are passed over."""
        from mmkit.balance.task_measure import names

        record = row.record
        if _is_passed_over(record) or ("set" in record and record.get("task") is None):
            return
        task = record.get("task")
        if not isinstance(task, str) or not task:
            raise DataError(f"task: expected a name, got {task!r}; records of no task can have no weight")
        self.members[task] = names(record, "tasks") or (task,)
        amount = 1 if self._strategy == "equal" else _amount(record, self._strategy)
        self._amounts[task] = self._amounts.get(task, 0) + amount

    def weigh(self, fixed: Mapping[str, float]) -> _Weighed:
        """Weigh those that are not fixed."""
        from mmkit.balance import reasons
        from mmkit.balance.weights import by_size, counted

        if not self._amounts:
            raise DataError("no row is of a task")
        amounts = {name: self._amounts[name] for name in counted(self.members, fixed)}
        weights = by_size(amounts, self._strategy)
        said = [reasons.of_size(weight, amounts, self._strategy) for weight in weights]
        return _Weighed(weights, {}, said, _range_notes(weights))


def _is_passed_over(record: Record) -> bool:
    """Whether it is a V or a C row of measure-contribution."""
    return "evaluated_on" in record or ("from" in record and "to" in record)


def _amount(record: Record, strategy: BySize) -> int:
    name, source = ("loss_tokens", "stats --model") if strategy == "tokens" else ("rows", "stats")
    amount = record.get(name)
    if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
        raise DataError(f"{name}: expected how many there are, 1 or more, as mmkit {source} counts; got {amount!r}")
    return amount


def _range_notes(weights: Sequence[TaskWeight]) -> list[str]:
    from mmkit.balance.weights import GREATEST, LEAST, is_outside
    from mmkit.data.strata import listed

    if not weights:
        return []
    values = [weight.weight for weight in weights]
    said = [f"weights from {min(values):.4f} to {max(values):.4f}"]
    if outside := [weight.task for weight in weights if is_outside(weight.weight)]:
        said.append(f"outside of {LEAST:g} to {GREATEST:g}, which the paper advises to keep to: {listed(outside)}")
    return said
