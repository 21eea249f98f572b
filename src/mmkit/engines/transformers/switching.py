"""Work with several adapters: each request is done with the one that it names, and no batch mixes two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic

from mmkit.engines import Request
from mmkit.engines.adapters import require_open
from mmkit.engines.transformers.batches import Answer, Job, Work

if TYPE_CHECKING:
    from mmkit.models.adapters import SwitchedAdapters


class Switching(Generic[Answer]):
    """Other work, behind a switch. `adapters` are those on its model, `names` what requests call them."""

    def __init__(self, work: Work[Answer], adapters: SwitchedAdapters | None, names: Sequence[str]) -> None:
        self._work, self._adapters, self._names = work, adapters, names

    def prepare(self, request: Request) -> Job:
        """Encode one request; DataError also where it names an adapter that is not there."""
        require_open(request, self._names)
        job = self._work.prepare(request)
        job.key = (request.adapter, job.key)
        return job

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        """Answer jobs of one key, with their adapter."""
        if self._adapters is not None:
            self._adapters.use(jobs[0].request.adapter)
        return self._work.run(jobs)

    def failed(self, request: Request, why: str) -> Answer:
        """As the work behind the switch."""
        return self._work.failed(request, why)
