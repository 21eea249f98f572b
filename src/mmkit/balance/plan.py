"""Which models `measure-contribution` trains and evaluates, on what, and what that costs: before anything is done.

Source: VisATB (Dai et al., WWW 2026), eqs. 3, 6 and 10 to 12; costs by section 3.2, advice by appendices B and G.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from mmkit import console
from mmkit.balance.cells import SHARED, Training, trained_on
from mmkit.balance.contribution import Difficulty, Form, terms, trainings
from mmkit.balance.subsets import Rates, Rows, Size
from mmkit.errors import DataError, UsageError

LEAST_MINI_ROWS, LEAST_LARGE_ROWS, LEAST_STEPS = 1_000, 10_001, 101
"""Of a subset of a task, and of a training: "at least 1,000", "more than 10k", "over 100" (appendices B and G)."""

StepsOf: TypeAlias = Callable[[Mapping[str, Sequence[str]], int], int]
"""The optimizer steps of a training on the rows of these ids, by task, with a seed."""


class Pace(NamedTuple):
    """How long things take, None where nobody knows: an optimizer step, and the reply to a validation row."""

    seconds_a_step: float | None
    seconds_a_row: float | None

    def estimate(self, num_steps: int, num_rows: int) -> float | None:
        """The seconds of so many; None where one of the two is unknown and wanted."""
        found = 0.0
        for count, seconds in zip((num_steps, num_rows), self, strict=True):
            if count and seconds is None:
                return None
            found += count * (seconds or 0.0)
        return found


@dataclass(frozen=True, slots=True)
class Planned:
    """A training and what is measured of it.

    `of` is the group (or the task) whose training it is; None where that is all groups' or none. `num_rows_of` is how
    many rows of each task are trained on: the first of `Rows.drawn`. `steps` are optimizer steps, 0 where nothing is
    trained, and `repeats` how many times those that the rows make. `evaluated_on` are tasks.
    """

    training: Training
    of: str | None
    seed: int
    num_rows_of: Mapping[str, int]
    steps: int
    evaluated_on: tuple[str, ...]
    repeats: float = 1.0

    @property
    def num_rows(self) -> int:
        """Of all tasks."""
        return sum(self.num_rows_of.values())

    @property
    def name(self) -> str:
        """What `--only` calls it."""
        return f"{trained_on(self.training, self.of)}@{self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be done. `num_rows` are the rows of all tasks, those of the final model's training; `groups` is
    the group of each task, itself where there are none."""

    trainings: tuple[Planned, ...]
    groups: Mapping[str, str]
    rates: Rates
    num_rows: int
    num_seeds: int

    @property
    def cost(self) -> float:
        """Rows of all trainings as a multiple of the final training's."""
        return sum(each.num_rows * each.repeats for each in self.trainings) / self.num_rows

    @property
    def paper_cost(self) -> float:
        """R_large + N·R_mini for each seed (section 3.2): what eq. 3 alone takes."""
        num_groups = len(set(self.groups.values()))
        return self.num_seeds * float(self.rates.large + num_groups * self.rates.mini)

    def named(self, name: str) -> Planned:
        """The training of that name. Raises UsageError, with the names there are, for an unknown one."""
        for each in self.trainings:
            if each.name == name:
                return each
        raise UsageError(
            f"--only {name}: no training of the plan; there are: {', '.join(t.name for t in self.trainings)}"
        )


def plan(
    rows: Rows,
    *,
    groups: Mapping[str, str] | None = None,
    rates: Rates,
    form: Form = "standard",
    difficulty: Difficulty = "paper",
    seeds: Sequence[int] = (0,),
    steps_of: StepsOf,
) -> Plan:
    """The trainings of each seed.

    `form` and `difficulty` are those of `contribution`. "matched" takes as many steps as the longest of the trainings
    with a large subset. Raises UsageError where form and difficulty do not go together, DataError for a task in no
    group and where there are not two groups.
    """
    own_groups = {task: task for task in rows.tasks} if groups is None else _groups_of(rows.tasks, groups)
    units = sorted(set(own_groups.values()))
    if len(units) < 2:
        raise DataError(f"contributions are between two tasks or groups at least, and there is {len(units)}")
    maker = _Maker(rows, own_groups, rates, steps_of)
    read_everywhere = {*SHARED, terms(form, difficulty).given}
    return Plan(
        tuple(
            maker.planned(training, of, seed, everywhere=training in read_everywhere)
            for seed in seeds
            for training, of in trainings(units, form, difficulty)
        ),
        own_groups,
        rates,
        sum(map(rows.num_rows, rows.tasks)),
        len(seeds),
    )


@dataclass(frozen=True, slots=True)
class _Maker:
    rows: Rows
    groups: Mapping[str, str]
    rates: Rates
    steps_of: StepsOf

    def planned(self, training: Training, of: str | None, seed: int, *, everywhere: bool) -> Planned:
        """A training; it is evaluated on its own group's tasks, or `everywhere`."""
        tasks = self.rows.tasks
        own = [task for task in tasks if self.groups[task] == of]
        num_rows_of = self._num_rows_of(training, of)
        steps = once = self._steps(num_rows_of, seed)
        if training == "matched":
            steps = max(self._steps(self._num_rows_of("large", group), seed) for group in set(self.groups.values()))
        evaluated_on = tuple(tasks if everywhere else own)
        return Planned(training, of, seed, num_rows_of, steps, evaluated_on, steps / once if once else 1.0)

    def _steps(self, num_rows_of: Mapping[str, int], seed: int) -> int:
        drawn = {task: self.rows.drawn(task, num_rows, seed) for task, num_rows in num_rows_of.items()}
        return self.steps_of(drawn, seed) if drawn else 0

    def _num_rows_of(self, training: Training, of: str | None) -> dict[str, int]:
        own_size: Size = "mini" if training == "own-mini" else "large"
        found = {}
        for task, group in self.groups.items():
            if group == of:
                found[task] = self.rates.num_rows(own_size, self.rows.num_rows(task))
            elif training in ("mini", "large", "matched"):
                found[task] = self.rates.num_rows("mini", self.rows.num_rows(task))
        return found


def require_larger_subsets(found: Plan) -> None:
    """Raise DataError where the large subset of a task or group is its mini subset. What C of eq. 3 divides by is zero
    then, whatever is trained."""
    minis = {each.seed: each.num_rows_of for each in found.trainings if each.training == "mini"}
    large = [each for each in found.trainings if each.training == "large"]
    if same := sorted({str(each.of) for each in large if each.num_rows_of == minis[each.seed]}):
        raise DataError(
            f"the large subset is no larger than the mini one: {', '.join(map(repr, same))}; C to it would divide by "
            f"zero (more rows, another --large or --mini, or --on-flat clip or drop)"
        )


def advice(found: Plan, rows: Rows) -> list[str]:
    """Where the plan falls short of what the paper advises, with figures: a line each."""
    lines = []
    leasts: Mapping[Size, int] = {"mini": LEAST_MINI_ROWS, "large": LEAST_LARGE_ROWS}
    for size, least in leasts.items():
        counts: dict[str, int] = {}
        for task, group in found.groups.items():
            counts[group] = counts.get(group, 0) + found.rates.num_rows(size, rows.num_rows(task))
        if short := [f"{group} {count:,}" for group, count in counts.items() if count < least]:
            lines.append(f"the paper advises {size} subsets of {least:,} rows or more: {', '.join(sorted(short))}")
    first = found.trainings[0].seed
    if short := [
        f"{each.name.rpartition('@')[0]} {each.steps}"
        for each in found.trainings
        if each.seed == first and 0 < each.steps < LEAST_STEPS
    ]:
        lines.append(f"the paper advises trainings of {LEAST_STEPS} steps or more: {', '.join(short)}")
    return lines


def to_wire(
    planned: Planned, *, is_trained: bool, same_as: str | None, num_cells_left: int, estimated_s: float | None
) -> dict[str, Any]:
    """The JSON row of a training. `same_as` names an earlier one that is the same by its content, so that nothing is
    left to do; its time is null where nobody knows it."""
    return {
        "training": planned.name,
        "rows": planned.num_rows,
        "steps": planned.steps,
        "evaluated_on": list(planned.evaluated_on),
        "trained": is_trained,
        **({} if same_as is None else {"same_as": same_as}),
        "cells_left": num_cells_left,
        "estimated_s": estimated_s,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What `to_wire` gives, for a terminal; header first."""
    header = ["training", "rows", "steps", "tasks", "cells left", "time left"]
    return [header, *(_shown(row) for row in rows)]


def _shown(row: Mapping[str, Any]) -> list[str]:
    counts = [f"{count:,}" for count in (row["rows"], row["steps"], len(row["evaluated_on"]), row["cells_left"])]
    return [row["training"], *counts, _left(row)]


def _left(row: Mapping[str, Any]) -> str:
    if "same_as" in row:
        return f"is {row['same_as']}"
    if row["trained"] and not row["cells_left"]:
        return "done"
    return "" if row["estimated_s"] is None else console.seconds(row["estimated_s"])


def summary(found: Plan, rows: Sequence[Mapping[str, Any]], jobs: int) -> list[str]:
    """What is left of a plan, given as `to_wire` rows, and what all of it costs beside the paper's figure."""
    num_models = sum(not row["trained"] for row in rows)
    times = [row["estimated_s"] for row in rows]
    known = [one for one in times if one is not None]
    num_cells = sum(row["cells_left"] for row in rows)
    done = f"{num_models} of {len(rows)} models to train, {num_cells} cells to measure"
    if len(known) < len(times):
        done += "; time is estimated from the first training on"
    elif num_models or num_cells:
        done += f", about {console.seconds(sum(known) / jobs)}" + (f" by {jobs} at once" if jobs > 1 else "")
    num_groups = len(set(found.groups.values()))
    terms_of_cost = f"{found.rates.large} + {num_groups} · {found.rates.mini}"
    return [
        done,
        f"all trainings see {found.cost:.2f} times the rows of the final one; "
        f"the paper's R_large + N·R_mini = {terms_of_cost} = {found.paper_cost / found.num_seeds:.2f} a seed",
    ]


def makefile(found: Plan, arguments: Sequence[str]) -> str:
    """A Makefile with a target a training, which evaluates it too, and contribution.jsonl, which takes them together.

    `arguments` are the command line's. Targets are phony: what is there is known by its content, whatever its date.
    """
    names = [f"training-{number}" for number in range(1, len(found.trainings) + 1)]
    every = " ".join(names)
    line = f"$(MMKIT) {_quoted(arguments)}"
    rules = [
        f"# {each.name}\n{name}:\n\t{line} {_quoted(['--only', each.name])}\n"
        for name, each in zip(names, found.trainings, strict=True)
    ]
    head = f"MMKIT ?= mmkit\n\n.PHONY: contribution.jsonl {every}\n"
    whole = f"contribution.jsonl: {every}\n\t{line} -o $@\n"
    return "\n".join([head, whole, *rules])


def _quoted(words: Sequence[str]) -> str:
    if bad := next((word for word in words if set("\n\r\0") & set(word)), None):
        raise UsageError(f"a Makefile cannot hold a name with a line break: {bad!r}")
    return shlex.join(words).replace("$", "$$")


def _groups_of(tasks: Collection[str], groups: Mapping[str, str]) -> dict[str, str]:
    if homeless := sorted(set(tasks) - groups.keys()):
        raise DataError(f"in no group: {', '.join(map(repr, homeless))}")
    return {task: groups[task] for task in tasks}
