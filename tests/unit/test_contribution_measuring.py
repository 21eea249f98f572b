"""What is trained and measured again, and what is not: with trainings that only write down what they were asked."""

from __future__ import annotations

import errno
import fcntl
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from mmkit import console
from mmkit.balance.cells import Cell
from mmkit.balance.contribution import Difficulty, Form, contribution
from mmkit.balance.measuring import CheckOrder, Done, EvaluationOrder, Measuring, Procedure, TrainingOrder, Value
from mmkit.balance.plan import Pace, Plan, plan
from mmkit.balance.subsets import Rates, Rows
from mmkit.errors import DataError, LimitError, MissingInputError

RATES = Rates(Fraction(1, 2), Fraction(1, 8))


def rows_of(
    tasks: Sequence[str],
    count: int,
    *,
    part: str = "train",
    text: str = "",
    order: int = 0,
    image_root: Path | None = None,
) -> Rows:
    """`count` rows a task, with an image each where there is an `image_root`; `order` is a seed to shuffle them by."""
    every = [(task, number) for task in tasks for number in range(count)]
    random.Random(order).shuffle(every)
    rows = Rows(None if image_root is None else str(image_root))
    for task, number in every:
        record: dict[str, Any] = {"id": f"{part}-{number}", "task": task, "text": text}
        if image_root is not None:
            record["images"] = [{"path": f"{part}-{task}-{number}.png"}]
        rows.add(record, json.dumps(record, separators=(",", ":")).encode())
    return rows


class Laboratory:
    """A work directory, and what was asked for in it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.trained: list[tuple[int, int, int | None]] = []
        self.evaluated: list[str] = []
        self.training: Mapping[str, Any] = {"lr": 0.1}
        self.evaluation: Mapping[str, Any] = {"metric": None}
        self.model = {"files": "abc"}
        self.validation_text = ""
        self.fails_after = 10**6
        self.image_root: Path | None = None
        self.keeps_models = True
        self.checks: Callable[[CheckOrder], None] | None = None
        self.num_begun = 0

    def train(self, order: TrainingOrder) -> None:
        self.num_begun += 1
        if len(self.trained) == self.fails_after:
            raise LimitError("the disk is full")
        lines = order.rows.read_text().splitlines()
        self.trained.append((len(lines), order.seed, order.max_steps))
        order.out.mkdir()
        (order.out / "rows").write_text(order.rows.read_text())

    def evaluate(self, order: EvaluationOrder) -> dict[str, Value]:
        tasks = sorted({json.loads(line)["task"] for line in order.rows.read_text().splitlines()})
        self.evaluated += tasks
        skill = 0 if order.model is None else (order.model / "rows").read_text().count
        return {task: Value("em", float(skill(f'"{task}"')) if skill else 0.0, 1.5) for task in tasks}

    def plan(self, tasks: Sequence[str], **options: Any) -> tuple[Plan, Measuring]:
        order = options.pop("order", 0)
        there = {"order": order, "image_root": self.image_root}
        rows = rows_of(tasks, 16, **there)
        validation = rows_of(tasks, 3, part="val", text=self.validation_text, **there)
        procedure = Procedure(self.train, self.evaluate, self.model, self.training, self.evaluation, self.checks)
        found = plan(rows, **{"rates": RATES, **options}, steps_of=lambda ids, seed: sum(map(len, ids.values())))
        return found, Measuring(self.work, rows, validation, procedure, keeps_models=self.keeps_models)

    def measure(self, tasks: Sequence[str], *, jobs: int = 1, **options: Any) -> tuple[int, int, list[Cell]]:
        """Trainings and evaluated tasks of this time, and all cells."""
        self.trained.clear()
        self.evaluated.clear()
        found, measuring = self.plan(tasks, **options)
        done: list[Done] = []
        measuring.measure_all(found, jobs=jobs, on_done=done.append)
        assert len(done) == len(found.trainings)
        assert sum(one.trained for one in done) == len(self.trained)
        assert sum(one.num_cells for one in done) == len(self.evaluated)
        return len(self.trained), len(self.evaluated), measuring.cells(found)

    def left(self, tasks: Sequence[str], **options: Any) -> tuple[int, int]:
        """What the plan says: trainings and cells that are left."""
        found, measuring = self.plan(tasks, **options)
        trainings = sum(not measuring.is_trained(planned) for planned in found.trainings)
        return trainings, sum(len(measuring.tasks_left(planned)) for planned in found.trainings)

    def draw_images(self, folder: Path, tasks: Sequence[str]) -> None:
        """A file for each image of the rows; all differ."""
        folder.mkdir()
        for task in tasks:
            for part, count in (("train", 16), ("val", 3)):
                for number in range(count):
                    (folder / f"{part}-{task}-{number}.png").write_text(f"{part} {task} {number}")
        self.image_root = folder


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path / "work")


def test_it_trains_and_measures_the_plan_and_the_second_time_nothing(laboratory: Laboratory) -> None:
    trained, evaluated, cells = laboratory.measure("ab")
    assert (trained, evaluated) == (3, 6)
    values = {(cell.trained_on, cell.evaluated_on): cell.value for cell in cells}
    assert values["mini", "a"] == values["large:b", "a"] == 2
    assert values["large:a", "a"] == values["large:b", "b"] == 8
    assert laboratory.measure("ab") == (0, 0, cells)


def test_the_order_of_rows_and_jobs_at_once_change_nothing(laboratory: Laboratory) -> None:
    cells = laboratory.measure("abc", jobs=3)[2]
    assert laboratory.measure("abc", order=5) == (0, 0, cells)


@pytest.mark.parametrize(
    ("form", "trainings", "cells"),
    [
        pytest.param("standard", 4, 12, id="every-training-has-the-new-task's-mini-subset"),
        pytest.param("chat", 2, 3 + 3 + 1, id="the-new-task's-trainings-and-the-others-on-it"),
    ],
)
def test_a_further_task_trains_what_the_plan_says(
    laboratory: Laboratory, form: Form, trainings: int, cells: int
) -> None:
    laboratory.measure("ab", form=form)
    assert laboratory.left("abc", form=form) == (trainings, cells)
    assert laboratory.measure("abc", form=form)[:2] == (trainings, cells)
    assert laboratory.left("abc", form=form) == (0, 0)


def test_other_settings_other_models_and_other_seeds_are_other_trainings(laboratory: Laboratory) -> None:
    laboratory.measure("ab")
    assert laboratory.left("ab", seeds=(0, 1)) == (3, 6)
    laboratory.training = {"lr": 0.2}
    assert laboratory.left("ab") == (3, 6)
    laboratory.training = {"lr": 0.1}
    laboratory.model = {"files": "other"}
    assert laboratory.left("ab") == (3, 6)


@pytest.mark.parametrize("groups", [None, {"a": "x", "b": "x", "c": "y"}], ids=["tasks", "groups"])
@pytest.mark.parametrize(
    ("form", "difficulty"),
    [("standard", "paper"), ("standard", "precise"), ("standard", "matched"), ("chat", "paper"), ("chat", "precise")],
)
def test_the_cells_of_a_plan_are_those_that_its_formulas_need(
    laboratory: Laboratory, form: Form, difficulty: Difficulty, groups: dict[str, str] | None
) -> None:
    options = {"form": form, "difficulty": difficulty, "groups": groups}
    cells = laboratory.measure("abc", **options, seeds=(0, 1))[2]
    found = contribution(cells, **options, on_flat="drop")
    assert [row.task for row in found.tasks] == (["a", "b", "c"] if groups is None else ["x", "y"])
    with pytest.raises(DataError, match="missing"):
        contribution(cells[:-1], **options, on_flat="drop")


def test_a_seed_trains_anew_where_it_draws_the_same_rows(laboratory: Laboratory) -> None:
    all_rows = Rates(Fraction(1), Fraction(1))
    assert laboratory.measure("ab", form="chat", rates=all_rows)[0] == 2
    assert laboratory.measure("ab", form="chat", rates=all_rows, seeds=(0, 1))[0] == 2


def test_other_validation_rows_and_metrics_are_measured_without_training(laboratory: Laboratory) -> None:
    laboratory.measure("ab")
    laboratory.validation_text = "edited"
    assert laboratory.measure("ab")[:2] == (0, 6)
    laboratory.evaluation = {"metric": "vqa"}
    assert laboratory.measure("ab")[:2] == (0, 6)


def test_the_base_model_is_measured_once_for_all_seeds_and_settings(laboratory: Laboratory) -> None:
    _, evaluated, cells = laboratory.measure("ab", form="chat", seeds=(0, 1))
    assert evaluated == 2 + 2 * (2 * 2 + 2)
    assert [cell.seed for cell in cells if cell.training == "base"] == [0, 0, 1, 1]
    laboratory.training = {"lr": 0.2}
    found, measuring = laboratory.plan("ab", form="chat")
    assert measuring.tasks_left(found.named("base@0")) == []


def test_matched_steps_are_ordered_and_a_training_that_needs_none_is_the_mini_one(laboratory: Laboratory) -> None:
    assert laboratory.measure("ab", difficulty="matched")[0] == 4
    assert Counter(laboratory.trained) == {(4, 0, None): 1, (4, 0, 10): 1, (10, 0, None): 2}
    found, measuring = laboratory.plan("ab", difficulty="matched")
    same = replace(found.named("matched@0"), steps=4, repeats=1.0)
    assert measuring.is_trained(same) and measuring.tasks_left(same) == []


def test_an_image_is_known_by_what_it_shows_wherever_it_lies(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.draw_images(tmp_path / "images", "ab")
    cells = laboratory.measure("ab")[2]
    laboratory.image_root = (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert laboratory.measure("ab") == (0, 0, cells)
    found, _ = laboratory.plan("ab")
    mini, large = (set(rows_of("ab", 16).drawn("a", found.rates.num_rows(size, 16), 0)) for size in ("mini", "large"))
    (tmp_path / "elsewhere" / f"train-a-{min(large - mini).removeprefix('train-')}.png").write_text("another picture")
    assert laboratory.left("ab") == (1, 2), "only large:a has seen it"
    (tmp_path / "elsewhere/val-b-0.png").write_text("another picture")
    assert laboratory.left("ab") == (1, 2 + 2), "and all models are to be asked about it"


def test_an_image_that_is_not_there_is_named_before_anything_is_trained(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.draw_images(tmp_path / "images", "ab")
    (tmp_path / "images/val-b-1.png").unlink()
    with pytest.raises(MissingInputError, match=r"row 'val-1' of task 'b'.*val-b-1\.png"):
        laboratory.plan("ab")
    (tmp_path / "images/val-b-1.png").write_text("")
    with pytest.raises(DataError, match=r"row 'val-1' of task 'b'.*empty"):
        laboratory.plan("ab")


def test_all_rows_are_looked_at_once_before_the_first_training(laboratory: Laboratory) -> None:
    looked_at: list[list[str]] = []

    def look(order: CheckOrder) -> None:
        assert not laboratory.trained and order.folder.is_dir()
        looked_at.append(sorted(order.rows.read_text().splitlines()))
        if len(looked_at) == 1:
            raise DataError("row 'train-3': too long")

    laboratory.checks = look
    found, measuring = laboratory.plan("ab")
    with pytest.raises(DataError, match="too long"):
        measuring.check(found)
    for _ in range(2):
        measuring.check(found)
    rows = rows_of("ab", 16)
    expected = [line.decode() for task in "ab" for line in rows.lines(task, rows.drawn(task, 8, 0))]
    assert looked_at == [sorted(expected)] * 2
    assert not [*laboratory.work.glob("checked/*.part-*")]


def test_a_single_training_looks_at_its_own_rows(laboratory: Laboratory) -> None:
    laboratory.measure("ab")
    laboratory.checks = lambda order: pytest.fail("nobody asked")
    for seeds in ((0,), (0, 1)):
        found, measuring = laboratory.plan("ab", seeds=seeds)
        measuring.check(replace(found, trainings=found.trainings[:4]))


def test_after_a_failure_nothing_is_begun_and_what_was_done_is_kept(laboratory: Laboratory) -> None:
    laboratory.fails_after = 0
    with pytest.raises(LimitError, match="mini@0: the disk is full"):
        laboratory.measure("abcde")
    assert laboratory.num_begun == 1
    laboratory.fails_after = 2
    with pytest.raises(LimitError, match="the disk is full"):
        laboratory.measure("ab")
    laboratory.fails_after = 10**6
    assert laboratory.left("ab") == (1, 2)
    assert laboratory.measure("ab")[:2] == (1, 2)


def test_models_that_are_not_kept_are_removed_and_nothing_is_trained_for_it(laboratory: Laboratory) -> None:
    laboratory.keeps_models = False
    cells = laboratory.measure("ab", difficulty="precise")[2]
    assert not [*laboratory.work.glob("trainings/*/model")]
    assert laboratory.left("ab", difficulty="precise") == (0, 0)
    laboratory.keeps_models = True
    assert laboratory.measure("ab", difficulty="precise") == (0, 0, cells)
    laboratory.validation_text = "edited"
    assert laboratory.left("ab") == (3, 6), "what is measured anew needs the models again"
    assert laboratory.measure("ab")[:2] == (3, 6)
    laboratory.keeps_models = False
    assert laboratory.measure("ab")[:2] == (0, 0)
    assert not [*laboratory.work.glob("trainings/*/model")]


def test_predictions_of_other_settings_are_no_half_done_ones_of_these(laboratory: Laboratory) -> None:
    laboratory.measure("ab")
    files: list[Path] = []

    def evaluate(order: EvaluationOrder) -> dict[str, Value]:
        files.append(order.predictions)
        raise LimitError("killed")

    for laboratory.evaluation in ({"max_new_tokens": 8}, {"max_new_tokens": 16}):
        found, measuring = laboratory.plan("ab")
        with pytest.raises(LimitError):
            Measuring(
                laboratory.work,
                measuring._rows,
                measuring._validation,
                replace(measuring._procedure, evaluate=evaluate),
            ).measure(found.trainings[0])
    assert len(set(files)) == 2


def test_a_training_that_two_commands_want_is_done_by_one_while_the_other_waits(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, first = laboratory.plan("ab")
    _, second = laboratory.plan("ab")
    mini, said, waits = found.named("mini@0"), [], threading.Event()
    train = laboratory.train

    def train_and_be_disturbed(order: TrainingOrder) -> None:
        if not laboratory.num_begun:
            others.append(pool.submit(second.measure, mini))
            assert waits.wait(20)
        train(order)

    def say(line: str) -> None:
        said.append(line)
        waits.set()

    monkeypatch.setattr(console, "say", say)
    others: list[Future[Done]] = []
    procedure = replace(first._procedure, train=train_and_be_disturbed)
    first = Measuring(laboratory.work, first._rows, first._validation, procedure)
    with ThreadPoolExecutor(1) as pool:
        assert first.measure(mini) == Done(mini, True, 2)
    assert others[0].result() == Done(mini, False, 0)
    assert [f"mini@0: waiting for who is at work in {first._folder(mini)}"] == [
        line.removeprefix("mmkit measure-contribution: ") for line in said
    ]


def test_a_disk_without_locks_will_do_and_one_that_takes_no_files_is_told(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert laboratory.measure("ab")[:2] == (3, 6)
    laboratory.work /= "cells/file"
    laboratory.work.write_text("")
    with pytest.raises(LimitError, match=r"cannot write to .*file: Not a directory"):
        laboratory.measure("ab")


def test_trainings_on_the_same_rows_are_one(laboratory: Laboratory) -> None:
    equal = Rates(Fraction(1, 8), Fraction(1, 8))
    found, measuring = laboratory.plan("ab", rates=equal)
    assert len({measuring.key(planned) for planned in found.trainings}) == 1
    assert laboratory.measure("ab", rates=equal)[0] == 1


def test_a_file_that_was_being_written_is_no_cell(laboratory: Laboratory) -> None:
    cells = laboratory.measure("ab")[2]
    for path in (laboratory.work / "cells").iterdir():
        path.rename(path.with_name(path.name + ".part-1"))
        break
    assert laboratory.measure("ab") == (0, 1, cells)


def test_a_value_that_is_no_number_is_named_and_not_kept(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laboratory, "evaluate", lambda order: {"a": Value("em", float("nan"), None)})
    with pytest.raises(DataError, match="mini on a"):
        laboratory.measure("ab")
    monkeypatch.setattr(laboratory, "evaluate", lambda order: {"b": Value("em", 1.0, None)})
    with pytest.raises(DataError, match="mini@0: the evaluation gave no value of 'a'"):
        laboratory.measure("ab")
    assert laboratory.left("ab")[1] == 6


def test_the_pace_is_known_from_the_first_training_on_and_is_that_of_its_settings(laboratory: Laboratory) -> None:
    assert laboratory.plan("ab")[1].pace() == Pace(None, None)
    laboratory.measure("ab")
    pace = laboratory.plan("ab")[1].pace()
    assert pace.seconds_a_step is not None and pace.seconds_a_step >= 0
    assert pace.seconds_a_row is not None and pace.seconds_a_row >= 0
    laboratory.model = {"files": "a larger one"}
    assert laboratory.plan("ab")[1].pace() == Pace(None, None)
