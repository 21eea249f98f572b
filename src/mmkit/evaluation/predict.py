"""Records through a model: what it answers becomes `prediction`."""

from __future__ import annotations

from collections.abc import Sequence

from mmkit import __version__, images
from mmkit.engines import Reply, Request, Sampling
from mmkit.engines.exchange import Inquiry
from mmkit.errors import UnavailableError
from mmkit.evaluation.routing import Route
from mmkit.records import Record, with_lineage
from mmkit.streams import Row
from mmkit.tasks import prompts


def predict(
    model: str, *, sampling: Sampling, image_root: str | None = None, route: Route | None = None
) -> Inquiry[Reply]:
    """The inquiry that adds `prediction` to every record; `model` is the name for lineage. A reply that failed rejects
    its row alone.

    `route` says which adapter answers which record; lineage names it. Without one the model answers all.
    """

    def adapter_of(record: Record) -> str:
        return route.adapter_of(record) if route is not None else ""

    def requests(row: Row) -> list[Request]:
        record = row.record
        return [
            Request(
                id=record["id"],
                position=row.position,
                messages=prompts.conversation(record),
                images=[images.load(image, image_root) for image in record.get("images") or ()],
                sampling=sampling,
                adapter=adapter_of(record),
            )
        ]

    def finish(row: Row, replies: Sequence[Reply]) -> Row:
        (reply,) = replies
        if reply.error is not None:
            raise UnavailableError(f"the model gave no reply: {reply.error}")
        adapter = adapter_of(row.record)
        entry = {
            "op": "predict",
            "version": __version__,
            "parents": [row.record["id"]],
            "model": model,
            **({"adapter": adapter} if adapter else {}),
            "params": sampling.digest(),
            "usage": reply.usage.to_wire(),
        }
        return row.replaced(with_lineage({**row.record, "prediction": reply.text}, entry))

    return Inquiry(requests, finish)
