"""Public benchmarks and training sets, as data: where a set lies, what its columns mean, how it is asked and scored.

A definition is a table of a TOML file in this folder; nothing about a single set is code. `rows` turns a set's own
rows into records by it. Such a record names its definition (`benchmark`, and `task` for the part of it), so that
`instruct`, `predict` and `eval` all ask and score by the one definition.

A definition, with every key that there is:

    [slake]
    title = "SLAKE (English part)"
    hub = "owner/name"               # on the Hugging Face hub; none: only a local copy can be read
    config = "name"                  # the hub set's configuration, where it has several; {split} is put in
    splits = ["train", "validation", "test"]
    split = "test"                   # the one that is evaluated
    tables = ["AdaMLLM Table 2"]     # the tables of the five papers that report or use it
    notes = "…"                      # what a user has to know (files to fetch, gated, changed since)
    unsupported = "…"                # why it cannot be run; with it only title, tables and hub are needed
    each = ["questions", "answers"]  # columns holding lists of one length; one record for each place in them
    overall = "mean"                 # or "sum" of the tasks' values, or "pooled": all rows as those of one task;
                                     # a score row of the benchmark's own name
    fields = "name"                  # of another benchmark whose fields are these; or a table:

    [slake.fields]                   # record field = source
    id = "qid"
    question = "question"            # a column; "a.b" is in an object, "a[].b" in each of a list, "a[0].b" in one
    images = "images/{img_name}"     # a template: text with {column} in it
    choices = ["A", "B", "C", "D"]   # a list of sources; empty ones are left out
    answer = { from = "label", labels = ["cat", "dog"] }

    [slake.tasks.slake-open]         # one or more; a row belongs to the first task that fits it, else it is dropped
    where = { answer_type = "OPEN" }          # columns and the value, or one of the values, that they must have
    matching = { question = "(?m)^A[.] " }    # columns and a regular expression that is found in their text
    present = ["image"]                       # columns that must hold something
    absent = ["image"]                        # columns that must be empty
    answer_type = "short"
    metric = "token-recall"
    prompt = "{question}"            # see `prompts.fill`; left out: the question with context and choices
    statement = "…"                  # what is asked of the image alone, where the question is the sample's own: the
                                     # prompt without it; may hold {choices}

A source as a table: `from` (any source) or `value` (the value itself), then, in this order: `drop` (a regular
expression whose matches are taken out), `map` (value to value, as strings; others stay), `labels` (an integer to a
name), `reshape` (one of `reshapes`, by name). All but some reshapes treat a list element by element. Null, nan, a blank
text and an empty list hold nothing: such a field is left out, and a template with such a column gives nothing. Texts
are stripped. A field that is none of the record's own (`category`, `image_id`) is carried as it is. Where the set's
own features name its class labels, a column holds the names, unless a source says what becomes of its numbers.

What a task needs of a row: a question, unless its prompt does without; an answer; choices, among them the answer, if
its answer type is "choice"; an image, if the definition has `images` and the task does not ask for its absence.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, TypeAlias, get_args

from mmkit.errors import DataError, UsageError
from mmkit.tasks.benchmarks import sources
from mmkit.tasks.benchmarks.sources import Source

AnswerType: TypeAlias = Literal["choice", "yes-no", "number", "short", "long", "box", "list"]
ANSWER_TYPES: tuple[str, ...] = get_args(AnswerType)
PROMPT_SLOTS = ("question", "context", "choices")
STATEMENT_SLOTS = ("choices",)
RESERVED_FIELDS = ("benchmark", "task", "messages", "prediction", "weight", "lineage")
"""Fields of a record that no set's column may fill."""


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """One task of a benchmark: which rows belong to it, how it is asked, what its answers are, how they are scored."""

    name: str
    answer_type: AnswerType
    metric: str
    prompt: str | None = None
    statement: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    matching: Mapping[str, str] = field(default_factory=dict)
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
    overall: Literal["mean", "sum", "pooled"] | None = None
    fields: Mapping[str, Source] = field(default_factory=dict)
    tasks: Mapping[str, TaskDefinition] = field(default_factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """The definition as a row for a pipe: what can be told without its columns."""
        row: dict[str, Any] = {
            name: value if not isinstance(value, Sequence) or isinstance(value, str) else list(value)
            for name in ("name", "title", "hub", "config", "splits", "split", "tables", "overall", "notes")
            if (value := getattr(self, name))
        }
        if self.unsupported:
            return {**row, "unsupported": self.unsupported}
        tasks = [
            {"task": task.name, "answer_type": task.answer_type, "metric": task.metric} for task in self.tasks.values()
        ]
        return {**row, "tasks": tasks}


def names() -> list[str]:
    """Every benchmark that is defined, in alphabetical order."""
    return sorted(_definitions())


def benchmark(name: str) -> Benchmark:
    """The definition of that name. Raises UsageError for an unknown one."""
    found = _definitions().get(name)
    if found is None:
        raise UsageError(f"unknown benchmark {name!r}; mmkit eval --list shows all")
    return found


def listing() -> list[list[str]]:
    """All benchmarks as a table of texts, its header first: one row a task, one row for a set that is unsupported."""
    rows = [["benchmark", "task", "answer", "metric", "split", "hub", "tables"]]
    for name in names():
        found = benchmark(name)
        source = [found.split or "", found.hub or "", "; ".join(found.tables)]
        if found.unsupported:
            rows.append([name, "", "", "unsupported", *source])
        rows.extend([name, task.name, task.answer_type, task.metric, *source] for task in found.tasks.values())
    return rows


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
    tables = _tables()
    return {name: _from_table(name, _with_fields(table, tables)) for name, table in tables.items()}


def _tables() -> dict[str, dict[str, Any]]:
    import tomllib

    tables: dict[str, dict[str, Any]] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
                if name in tables:
                    raise ValueError(f"{file.name}: {name} is defined twice")
                tables[name] = table
    return tables


def _with_fields(table: dict[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The table with another benchmark's fields in place of its name."""
    other = table.get("fields")
    return {**table, "fields": tables[other]["fields"]} if isinstance(other, str) else table


def _from_table(name: str, table: Mapping[str, Any]) -> Benchmark:
    """The definition in a table. Raises ValueError, naming the benchmark and the key, for one that cannot be meant."""
    try:
        _require_keys(table, Benchmark, without={"name"})
        fields = {field: _source(field, source) for field, source in table.get("fields", {}).items()}
        tasks = {task: _task(task, keys) for task, keys in table.get("tasks", {}).items()}
        found = Benchmark(name=name, **{**table, "fields": fields, "tasks": tasks})
        _require_whole(found)
    except ValueError as error:
        raise ValueError(f"benchmark {name}: {error}") from None
    return found


def _source(field: str, source: Any) -> Source:
    if field in RESERVED_FIELDS:
        raise ValueError(f"fields.{field}: is not a set's to fill")
    try:
        return sources.parse(source)
    except ValueError as error:
        raise ValueError(f"fields.{field}: {error}") from None


def _task(name: str, keys: Mapping[str, Any]) -> TaskDefinition:
    from mmkit.tasks.metrics import METRICS

    try:
        _require_keys(keys, TaskDefinition, without={"name"})
        task = TaskDefinition(name=name, **keys)
        if task.answer_type not in ANSWER_TYPES:
            raise ValueError(f"answer_type: unknown {task.answer_type!r}; known: {', '.join(ANSWER_TYPES)}")
        if task.metric not in METRICS:
            raise ValueError(f"metric: unknown {task.metric!r}; known: {', '.join(METRICS)}")
        for column, pattern in task.matching.items():
            sources.compiled(pattern, f"matching.{column}")
        for key, slots in (("prompt", PROMPT_SLOTS), ("statement", STATEMENT_SLOTS)):
            unknown = set(re.findall(r"\{(\w*)\}", getattr(task, key) or "")) - set(slots)
            if unknown:
                raise ValueError(f"{key}: unknown {{{unknown.pop()}}}; known: {', '.join(slots)}")
    except ValueError as error:
        raise ValueError(f"tasks.{name}: {error}") from None
    return task


def _require_keys(table: Mapping[str, Any], kind: type, without: set[str]) -> None:
    keys = [key for key in dataclasses.fields(kind) if key.name not in without]
    known = {key.name for key in keys}
    unknown = set(table) - known
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}; known: {', '.join(sorted(known))}")
    for key in keys:
        needed = key.default is dataclasses.MISSING and key.default_factory is dataclasses.MISSING
        if needed and key.name not in table:
            raise ValueError(f"{key.name} is missing")


def _require_whole(found: Benchmark) -> None:
    if found.unsupported:
        return
    if not found.tasks:
        raise ValueError("has no tasks")
    if not {"answer", "answers"} & found.fields.keys():
        raise ValueError("fields: neither answer nor answers")
    if found.split not in found.splits:
        raise ValueError(f"split: {found.split!r} is none of the splits {list(found.splits)}")
    if found.overall not in (None, "mean", "sum", "pooled"):
        raise ValueError(f"overall: expected mean or sum, got {found.overall!r}")
