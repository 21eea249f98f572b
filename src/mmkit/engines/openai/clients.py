"""HTTP clients, one for each request that is open."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    import httpx


class Clients:
    """Lends each request a client of its own and keeps it, with its connections, for the next.

    A client of httpx looks at every one of its connections for every request, and at all the others for each of them.
    With one client for 64 requests at a time, that takes longer than everything else together.
    """

    def __init__(self) -> None:
        self._all: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []

    @contextmanager
    def lent(self) -> Iterator[httpx.AsyncClient]:
        """A client that nobody else uses meanwhile."""
        client = self._idle.pop() if self._idle else self._new()
        try:
            yield client
        finally:
            self._idle.append(client)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._all))

    def _new(self) -> httpx.AsyncClient:
        import httpx

        # Deadlines are the server's; the client must not add one of its own.
        client = httpx.AsyncClient(timeout=None, verify=_tls())
        self._all.append(client)
        return client


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than many a request."""
    import httpx

    return httpx.create_ssl_context()
