"""Public benchmarks and training sets, as data: where a set lies, what its columns mean, how it is asked and scored.

A definition is a table of a TOML file in this folder; nothing about a single set is code. `rows` turns a set's own
rows into records by it. Such a record names its definition (`benchmark`, and `task` for the part of it), so that
`instruct`, `predict` and `eval` all ask and score by the one definition.

A definition, with every key that there is:

    [slake]
    title = "SLAKE (English part)"
    hub = "owner/name"               # on the Hugging Face hub; none: only a local copy can be read
    config = "name"                  # the hub set's configuration, where it has several
    splits = ["train", "validation", "test"]
    split = "test"                   # the one that is evaluated
    tables = ["AdaMLLM Table 2"]     # the tables of the five papers that report or use it
    notes = "…"                      # what a user has to know (files to fetch, gated, changed since)
    unsupported = "…"                # why it cannot be run; with it only title, tables and hub are needed
    each = ["questions", "answers"]  # columns holding lists of one length; one record for each place in them
    overall = "mean"                 # of the tasks' values: "mean" or "sum"; a score row of the benchmark's own name

    [slake.fields]                   # record field = source
    id = "qid"
    question = "question"            # a column; "a.b" goes into an object, "a[].b" into each of a list
    images = "images/{img_name}"     # a template: text with {column} in it
    choices = ["A", "B", "C", "D"]   # a list of sources; empty ones are left out
    answer = { from = "label", labels = ["cat", "dog"] }

    [slake.tasks.slake-open]         # one or more; a row belongs to the first task that fits it, else it is dropped
    where = { answer_type = "OPEN" }          # columns and the value, or one of the values, that they must have
    present = ["image"]                       # columns that must hold something
    absent = ["image"]                        # columns that must be empty
    answer_type = "short"
    metric = "token-recall"
    prompt = "{question}"            # see `prompts.fill`; left out: the question with context and choices

A source as a table: `from` (any source), then, in this order: `drop` (a regular expression whose matches are taken
out), `map` (value to value, as strings; others stay), `labels` (an integer to a name), `reshape` (a function of
`rows` by name).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, TypeAlias, get_args

from mmkit.errors import DataError, UsageError

AnswerType: TypeAlias = Literal["choice", "yes-no", "number", "short", "long", "box", "list"]
ANSWER_TYPES: tuple[str, ...] = get_args(AnswerType)


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """One task of a benchmark: which rows belong to it, how it is asked, what its answers are, how they are scored."""

    name: str
    answer_type: AnswerType
    metric: str
    prompt: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    present: Sequence[str] = ()
    absent: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set's definition; the fields are the keys that the module's text explains."""

    name: str
    title: str
    tables: Sequence[str]
    hub: str | None = None
    config: str | None = None
    splits: Sequence[str] = ()
    split: str | None = None
    notes: str | None = None
    unsupported: str | None = None
    each: Sequence[str] = ()
    overall: Literal["mean", "sum"] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, TaskDefinition] = field(default_factory=dict)


def names() -> list[str]:
    """Every benchmark that is defined, in alphabetical order."""
    return sorted(_definitions())


def benchmark(name: str) -> Benchmark:
    """The definition of that name. Raises UsageError for an unknown one."""
    found = _definitions().get(name)
    if found is None:
        raise UsageError(f"unknown benchmark {name!r}; mmkit eval --list shows all")
    return found


def definition_of(record: Mapping[str, Any]) -> TaskDefinition | None:
    """The task definition that a record names by `benchmark` and `task`; None where it names no benchmark.

    Raises DataError where it names one that is not there.
    """
    name = record.get("benchmark")
    if name is None:
        return None
    known = _definitions().get(name) if isinstance(name, str) else None
    if known is None:
        raise DataError(f"benchmark: {name!r} is not defined; mmkit eval --list shows all")
    task = record.get("task")
    if not isinstance(task, str) or task not in known.tasks:
        raise DataError(f"task: {task!r} is none of {name}'s: {', '.join(known.tasks)}")
    return known.tasks[task]


@functools.cache
def _definitions() -> Mapping[str, Benchmark]:
    import tomllib

    found: dict[str, Benchmark] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
                if name in found:
                    raise ValueError(f"{file.name}: {name} is defined twice")
                found[name] = _from_table(name, table)
    return found


def _from_table(name: str, table: Mapping[str, Any]) -> Benchmark:
    tasks = {task: TaskDefinition(name=task, **keys) for task, keys in table.get("tasks", {}).items()}
    return Benchmark(name=name, **{**table, "tasks": tasks})
