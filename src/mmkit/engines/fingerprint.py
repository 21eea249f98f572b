"""When two requests ask the same: what the cache finds replies by, and a batch its answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from mmkit.engines import Request


def fingerprint(model: Any, request: Request, choices: Sequence[str] | None) -> bytes:
    """A hash of all that decides the answer, 32 bytes; equal ones may share it.

    It covers the model (anything that JSON can hold; the request's name for an adapter is not looked at, so an adapter
    has to be part of it), the kind of request, messages or prompt, the images' bytes, `open_turn`, the choices, and for
    `generate` (no choices) the sampling, with the request id where the temperature is above 0, since draws depend on
    it. Raises TypeError for messages that have no JSON form.
    """
    sampling = request.sampling
    fields = [
        model,
        "generate" if choices is None else "choose",
        list(request.messages),
        [image.sha256() for image in request.images],
        request.prompt,
        request.shared_prefix,
        request.open_turn,
        None if choices is None else list(choices),
        astuple(sampling) if choices is None else None,
        request.id if choices is None and sampling.temperature > 0 else None,
    ]
    # The standard library's JSON: it takes any string and any integer that a record can hold.
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=_plain_mapping).encode()).digest()


def _plain_mapping(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a message holds a {type(value).__name__}, which has no JSON form")
