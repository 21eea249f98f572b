"""An image's inline bytes where only JSON can go: `{"bytes": {"$bytes": "<base64>"}}`."""

from __future__ import annotations

import base64
from typing import Any

from mmkit.records import Record

_BYTES = "$bytes"


def as_json(value: Any) -> dict[str, str]:
    """For orjson's `default`: bytes as an object. Raises TypeError for anything else."""
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def as_any_json(value: Any) -> dict[str, str] | str:
    """For orjson's `default` where a value is only told apart or shown: other types as Python writes them.

    Bytes are not: an image written so takes longer than everything else that is done to its row.
    """
    return as_json(value) if isinstance(value, bytes) else repr(value)


def restore(record: Record) -> Record:
    """The record with such objects in its `images` turned back into bytes, in place."""
    for image in record.get("images") or ():
        inline = image.get("bytes") if isinstance(image, dict) else None
        if isinstance(inline, dict) and inline.keys() == {_BYTES}:
            image["bytes"] = base64.b64decode(inline[_BYTES])
    return record
