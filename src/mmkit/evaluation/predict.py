"""Records through a model: what it answers becomes `prediction`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmkit import __version__, images
from mmkit.engines import Reply, Request, Sampling
from mmkit.engines.exchange import Inquiry
from mmkit.errors import DataError, UnavailableError
from mmkit.records import Record, message, with_lineage
from mmkit.streams import Row
from mmkit.tasks import prompts


def predict(model: str, *, sampling: Sampling, image_root: str | None = None) -> Inquiry[Reply]:
    """The inquiry that adds `prediction` to every record; `model` is the name for lineage. A reply that failed rejects
    its row alone."""

    def requests(row: Row) -> list[Request]:
        record = row.record
        return [
            Request(
                id=record["id"],
                position=row.position,
                messages=conversation(record),
                images=[images.load(image, image_root) for image in record.get("images") or ()],
                sampling=sampling,
            )
        ]

    def finish(row: Row, replies: Sequence[Reply]) -> Row:
        (reply,) = replies
        if reply.error is not None:
            raise UnavailableError(f"the model gave no reply: {reply.error}")
        entry = {
            "op": "predict",
            "version": __version__,
            "parents": [row.record["id"]],
            "model": model,
            "params": sampling.digest(),
            "usage": reply.usage.to_wire(),
        }
        return row.replaced(with_lineage({**row.record, "prediction": reply.text}, entry))

    return Inquiry(requests, finish)


def conversation(record: Record) -> Sequence[Mapping[str, Any]]:
    """What the model is asked: the record's messages up to its last answer, else its question.

    Raises DataError where there is neither, or no user turn to answer. The gold answer is never part of it.
    """
    turns: list[Mapping[str, Any]] = list(record.get("messages") or ())
    if not turns:
        return [message("user", prompts.ask(record), len(record.get("images") or ()))]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or turns[-1]["role"] != "user":
        raise DataError("messages: no user turn to answer")
    return turns
