"""From a record to a training sample: what is said, which images, how much it weighs."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkit.errors import DataError, MissingInputError, MmkitError
from mmkit.images import LoadedImage, load


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation to learn from. `weight` is the λ of each of its tokens in the loss.

    `where` is the file and line that it was read from, for messages; `record` is what was read there.
    `images` are references, read only when the sample is encoded: a large set never lies decoded in memory.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    images: tuple[Mapping[str, Any], ...] = ()
    task: str | None = None
    weight: float = 1.0
    image_root: Path | None = None
    where: str = ""
    record: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str:
        """What messages call it: file and line where they are known, and the id."""
        return _label(self.id, self.where)

    def to_record(self) -> dict[str, Any]:
        """The record that the sample was made of, all its fields; inline bytes of images as data URIs."""
        own = {"id": self.id, "task": self.task, "messages": list(self.messages)}
        record = dict(own if self.record is None else self.record)
        if self.images:
            record["images"] = [without_bytes(reference) for reference in self.images]
        return record

    def to_wire(self) -> dict[str, Any]:
        """The sample as a JSON object that means the same from any working directory."""
        root = str(Path(self.image_root or ".").absolute())
        return {"record": self.to_record(), "weight": self.weight, "where": self.where, "image_root": root}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Sample:
        """The sample of `to_wire`."""
        record = wire["record"]
        return cls(
            id=record["id"],
            messages=tuple(record["messages"]),
            images=tuple(record.get("images") or ()),
            task=record.get("task") or None,
            weight=wire["weight"],
            image_root=Path(wire["image_root"]),
            where=wire["where"],
            record=record,
        )

    def load_images(self) -> list[LoadedImage]:
        """The decoded images, in order. Raises DataError or MissingInputError, naming the record."""
        try:
            return [load(reference, self.image_root) for reference in self.images]
        except (DataError, MissingInputError) as error:
            raise type(error)(f"{self.label}: {error}") from None


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be trained on: where it was read, what could be read of it, and why."""

    where: str
    record: dict[str, Any] | str
    error: MmkitError


def sample_of(
    record: Mapping[str, Any],
    *,
    image_root: Path | None = None,
    task_weights: Mapping[str, float] | None = None,
    default_weight: float | None = None,
    where: str = "",
) -> Sample:
    """The sample of a canonical record with `messages`; `where` is its file and line.

    λ is the record's own `weight` (1 where it has none) times that of its task in `task_weights`. A task that is not
    there takes `default_weight`; with none given that is a DataError, as are a record without messages and a weight
    that is negative or not finite. Source: VisATB, eq. 2 (λ by task). Deviation: a record's own weight multiplies.
    """
    label = _label(record["id"], where)
    if not record.get("messages"):
        raise DataError(f"{label}: no messages to train on (mmkit compose makes them)")
    own = record.get("weight")
    task = record.get("task") or None
    weight = 1.0 if own is None else float(own)
    if task_weights is not None:
        weight *= _task_weight(label, task, task_weights, default_weight)
    if not 0 <= weight < math.inf:
        raise DataError(f"{label}: weight {weight} is negative or not finite")
    return Sample(
        id=record["id"],
        messages=tuple(record["messages"]),
        images=tuple(record.get("images") or ()),
        task=task,
        weight=weight,
        image_root=image_root,
        where=where,
        record=record,
    )


def without_bytes(reference: Mapping[str, Any]) -> dict[str, Any]:
    """The reference with inline bytes as a data URI."""
    data = reference.get("bytes")
    if not isinstance(data, bytes | bytearray):
        return dict(reference)
    return {"path": f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"}


def _label(record_id: str, where: str) -> str:
    return f"{where}: record {record_id!r}" if where else f"record {record_id!r}"


def _task_weight(
    label: str, task: str | None, task_weights: Mapping[str, float], default_weight: float | None
) -> float:
    if task is not None and task in task_weights:
        return float(task_weights[task])
    if default_weight is not None:
        return default_weight
    what = "no task" if task is None else f"task {task!r}, which has no weight"
    raise DataError(f"{label} has {what} (known tasks: {', '.join(sorted(task_weights))})")
