"""The adapters that requests name, of those that an engine was opened with."""

from __future__ import annotations

from collections.abc import Collection

from mmkit.engines import Request
from mmkit.errors import DataError


def require_open(request: Request, adapters: Collection[str]) -> None:
    """Raise DataError where a request names an adapter that is not among `adapters`."""
    if request.adapter and request.adapter not in adapters:
        known = ", ".join(adapters) or "none"
        raise DataError(f"the engine was opened without the adapter {request.adapter!r}; it has: {known}")
