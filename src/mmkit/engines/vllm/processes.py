"""The processes that vLLM's engine runs in: started so that Ctrl-C works, watched so that a death is noticed.

Both is vLLM's own affair in principle. In 0.32 and 0.33 a front that waits for its engine waits on when the engine's
process is gone: a process that the kernel's out-of-memory killer took, or that Ctrl-C ended first, would leave the run
hanging.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import threading
import time
from collections.abc import Callable
from typing import Any

_POLL_S = 0.1
_GRACE_S = 5.0
"""How long vLLM may take to say itself why a process ended while it started."""


def start(make: Callable[[], Any]) -> tuple[Any, Watch]:
    """The engine that `make` builds, and the watch over its processes.

    Raises what `make` raises, and ChildProcessError where a process ended and vLLM did not notice.
    """
    before = set(multiprocessing.active_children())
    if not _in_own_processes():
        return make(), Watch(None, set())
    start = _Start(make)
    try:
        start.wait(before)
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
    return start.engine, Watch(start.engine, set(multiprocessing.active_children()) - before)


class Watch:
    """Wakes a waiting `step` when one of the engine's processes is gone."""

    def __init__(self, engine: Any, processes: set[Any]) -> None:
        self._engine = engine
        self._ended, self._ending = multiprocessing.Pipe(duplex=False)
        self._thread: threading.Thread | None = None
        if processes:  # none where the engine runs in this process
            self._thread = threading.Thread(target=self._run, args=(processes,), name="mmkit-vllm-watch", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Stop watching: the processes are about to end as they should."""
        self._ending.close()
        if self._thread is not None:
            self._thread.join()
        self._ended.close()

    def _run(self, processes: set[Any]) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        ready = multiprocessing.connection.wait([self._ended, *(process.sentinel for process in processes)])
        if self._ended not in ready:
            self._engine.engine_core.outputs_queue.put_nowait(EngineDeadError())


class _Start:
    """`make`, run in a thread, so that this one stays free for Ctrl-C and bad news."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.engine: Any = None
        self._make = make
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mmkit-vllm-start", daemon=True)
        self._thread.start()

    def wait(self, before: set[Any]) -> None:
        """Until it is done. `before` are the processes that are not the engine's."""
        started: set[Any] = set()
        died_at: float | None = None
        while self._thread.is_alive():
            self._thread.join(_POLL_S)
            started |= set(multiprocessing.active_children()) - before
            dead = [process for process in started if process.exitcode is not None]
            if dead and died_at is None:
                died_at = time.monotonic()
            if died_at is not None and time.monotonic() - died_at > _GRACE_S and self._thread.is_alive():
                raise ChildProcessError(f"its process {dead[0].name} ended while starting (code {dead[0].exitcode})")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self.engine = self._make()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error


def _in_own_processes() -> bool:
    import vllm.envs

    return bool(vllm.envs.VLLM_ENABLE_V1_MULTIPROCESSING)
