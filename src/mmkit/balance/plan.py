"""Which models `measure-contribution` trains and evaluates, on what, and what that costs: before anything is done.

Source: VisATB (Dai et al., WWW 2026), eqs. 3, 6 and 10 to 12; costs by section 3.2, advice by appendices B and G.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkit.balance.cells import SHARED, Training, trained_on
from mmkit.balance.contribution import Difficulty, Form, terms, trainings
from mmkit.balance.subsets import Rates, Rows, Size
from mmkit.errors import DataError, UsageError

LEAST_MINI_ROWS, LEAST_LARGE_ROWS, LEAST_STEPS = 1_000, 10_001, 101
"""Of a subset of a task, and of a training: "at least 1,000", "more than 10k", "over 100" (appendices B and G)."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A training and what is measured of it.

    `of` is the group (or the task) whose training it is; None where that is all groups' or none. `sizes` is which subset
    of each task is trained on. `steps` are optimizer steps, 0 where nothing is trained, and `repeats` how many
    times those that the rows make. `evaluated_on` are tasks.
    """

    training: Training
    of: str | None
    seed: int
    sizes: Mapping[str, Size]
    num_rows: int
    steps: int
    evaluated_on: tuple[str, ...]
    repeats: float = 1.0

    @property
    def name(self) -> str:
        """What `--only` calls it."""
        return f"{trained_on(self.training, self.of)}@{self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be done. `num_rows` are the rows of all tasks, those of the final model's training, and `groups` the
    group of each task."""

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
        """R_large + N·R_mini for each seed (section 3.2): what eq. 3 alone takes, where tasks are of one size or not."""
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
    rates: Rates = Rates(),
    form: Form = "standard",
    difficulty: Difficulty = "paper",
    seeds: Sequence[int] = (0,),
    steps_of: Callable[[int], int],
) -> Plan:
    """The trainings of each seed. `steps_of` tells the optimizer steps of a number of rows.

    `form` and `difficulty` are those of `contribution`. "matched" takes as many steps as the longest of the trainings
    with a large subset. Raises UsageError where form and difficulty do not go together, DataError for a task in no group
    and where there are not two groups.
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
    steps_of: Callable[[int], int]

    def planned(self, training: Training, of: str | None, seed: int, *, everywhere: bool) -> Planned:
        """A training; it is evaluated on its own group's tasks, or `everywhere`."""
        tasks = self.rows.tasks
        own = [task for task in tasks if self.groups[task] == of]
        sizes = self._sizes(training, own)
        num_rows = self._num_rows(sizes)
        steps = once = self.steps_of(num_rows) if num_rows else 0
        if training == "matched":
            steps = max(self._steps_of_large(group) for group in self.groups.values())
        return Planned(
            training,
            of,
            seed,
            sizes,
            num_rows,
            steps,
            tuple(tasks if everywhere else own),
            steps / once if once else 1.0,
        )

    def _sizes(self, training: Training, own: Sequence[str]) -> Mapping[str, Size]:
        mini: dict[str, Size] = dict.fromkeys(self.rows.tasks, "mini")
        sizes: dict[Training, Mapping[str, Size]] = {
            "mini": mini,
            "matched": mini,
            "large": {**mini, **dict.fromkeys(own, "large")},
            "base": {},
            "own-mini": dict.fromkeys(own, "mini"),
            "own-large": dict.fromkeys(own, "large"),
        }
        return sizes[training]

    def _num_rows(self, sizes: Mapping[str, Size]) -> int:
        return sum(self.rates.num_rows(size, self.rows.num_rows(task)) for task, size in sizes.items())

    def _steps_of_large(self, group: str) -> int:
        own = [task for task in self.rows.tasks if self.groups[task] == group]
        return self.steps_of(self._num_rows(self._sizes("large", own)))


def advice(found: Plan, rows: Rows) -> list[str]:
    """Where the plan falls short of what the paper advises, with figures: a line each."""
    lines = []
    for size, least in (("mini", LEAST_MINI_ROWS), ("large", LEAST_LARGE_ROWS)):
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


def to_wire(planned: Planned, *, is_trained: bool, num_cells_left: int, duration_s: float | None) -> dict[str, Any]:
    """The JSON row of a training. `duration_s` is the estimated time of the training; None where nothing is known."""
    return {
        "training": planned.name,
        "rows": planned.num_rows,
        "steps": planned.steps,
        "evaluated_on": list(planned.evaluated_on),
        "trained": is_trained,
        "cells_left": num_cells_left,
        "estimated_s": duration_s,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What `to_wire` gives, for a terminal; header first."""
    header = ["training", "rows", "steps", "tasks", "cells left", "estimated time"]
    return [header, *(_shown(row) for row in rows)]


def _shown(row: Mapping[str, Any]) -> list[str]:
    seconds = row["estimated_s"]
    time = "done" if row["trained"] else "" if seconds is None else _time(seconds)
    numbers = [f"{row[name]:,}" for name in ("rows", "steps")]
    return [row["training"], *numbers, str(len(row["evaluated_on"])), str(row["cells_left"]), time]


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes else f"{seconds:.0f} s"


def makefile(found: Plan, command: Sequence[str], output: str) -> str:
    """A Makefile with a target a training, which evaluates it too, and `output`, which only puts the cells together.

    `command` is the command line without `--plan` and `-o`. Targets are phony: what is there already is found by its
    content, so that make's clock decides nothing.
    """
    line = shlex.join(command).replace("$", "$$")
    targets = [f"training-{number}" for number in range(len(found.trainings))]
    rules = [
        f"{target}:  # {each.name}\n\t{line} --only {shlex.quote(each.name).replace('$', '$$')}\n"
        for target, each in zip(targets, found.trainings, strict=True)
    ]
    file = output.replace("$", "$$")
    head = f".PHONY: all {' '.join(targets)}\nall: {' '.join(targets)}\n\t{line} -o {shlex.quote(file)}\n"
    return "\n".join([head, *rules])


def _groups_of(tasks: Collection[str], groups: Mapping[str, str]) -> dict[str, str]:
    if homeless := sorted(set(tasks) - groups.keys()):
        raise DataError(f"in no group: {', '.join(map(repr, homeless))}")
    return {task: groups[task] for task in tasks}
