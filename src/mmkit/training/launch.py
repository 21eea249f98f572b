"""torchrun, and what a run's processes and the one that started them tell each other. No torch here.

The standard input of every process of a run is one end of a socket whose other end the launcher holds. The main process
writes its reports to it. All of them read from it, where nothing ever comes, until it is closed: that is the end of the
launcher, however it came about, and theirs. So no process is left behind on a GPU, and none trains unseen.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from mmkit import errors
from mmkit.errors import LimitError, MmkitError, UsageError
from mmkit.training.config import Placement, TuneConfig
from mmkit.training.job import FOLDER
from mmkit.training.stopping import Stopped, StopSignal

FAILURE_FILE = "failure.json"
"""In OUT/checkpoints: the error that ended a run, by the first process that met one."""

TORCHRUN_LOG = "torchrun.log"
"""In OUT/checkpoints: what torchrun and the processes of a run wrote."""

LAUNCHED = "--launched"
"""Tells a process that its standard input is a launcher's."""

_LOOK_EVERY_S = 0.1
_WAIT_FOR_END_S = 20.0
_TAIL_BYTES, _TAIL_LINES = 2**16, 40
_ROOT_CAUSE = re.compile(r"^E.* failed \(exitcode: (-?\d+)\) local_rank: (\d+)", re.MULTILINE)


class WorkerError(MmkitError):
    """A process of a run ended by an error that is none of mmkit's own: a bug."""


# --- the launcher's side


def num_processes(placement: Placement, config: TuneConfig) -> int:
    """How many processes this node runs: what was asked for, else one for each visible GPU, else one.

    Raises UsageError where GPUs are to be used and there are fewer than processes.
    """
    if placement.nproc == 1 or config.device == "cpu":
        return placement.nproc or 1
    gpus = _num_gpus()
    if placement.nproc is None:
        return max(1, gpus)
    if placement.nproc > gpus and (gpus or config.device == "cuda"):
        raise UsageError(f"{placement.nproc} processes need as many GPUs, and {gpus} are visible (--device cpu?)")
    return placement.nproc


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def run_under_torchrun(
    out: Path,
    placement: Placement,
    nproc: int,
    on_line: Callable[[dict[str, Any]], None],
    *,
    module: str = "mmkit.training",
) -> None:
    """Do the job in `out` in `nproc` processes on this node, and wait for its end.

    `on_line` hears of each optimizer step, as `StepReport.to_wire`, if the main process is on this node. What the
    processes write goes to OUT/checkpoints/torchrun.log. SIGTERM and Ctrl-C are passed on as a request to stop; a
    second Ctrl-C ends all processes at once and raises KeyboardInterrupt.

    Raises the MmkitError that ended the run, whichever process met it, among them Stopped; LimitError where a process
    was killed, WorkerError where one met a bug.
    """
    folder = out / FOLDER
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    ours, theirs = socket.socketpair()
    with ours, StopSignal(out) as stop, (folder / TORCHRUN_LOG).open("ab") as log:
        log_start = log.tell()
        with theirs:
            torchrun = subprocess.Popen(
                _command(out, placement, nproc, module),
                stdin=theirs.fileno(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for us alone: they hear of it by the stop file
                # Where a scheduler signals torchrun itself, the time for a checkpoint; newer torchruns heed it.
                env={"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600", **os.environ},
            )
        try:
            _listen(ours, torchrun, stop, on_line)
        finally:
            _end(ours, torchrun)
    _raise_failure(folder, stop)
    if torchrun.returncode and folder.exists():  # its removal is the last act of a run
        raise _crash(torchrun.returncode, folder / TORCHRUN_LOG, log_start)


def _command(out: Path, placement: Placement, nproc: int, module: str) -> list[str]:
    if placement.nnodes == 1:
        nodes = ["--standalone"]
    else:
        nodes = ["--nnodes", str(placement.nnodes), "--rdzv-backend", "c10d"]
        nodes += ["--rdzv-endpoint", str(placement.rdzv_endpoint)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc), *nodes]
    return [*torchrun, "-m", module, str(out.resolve()), LAUNCHED]


def _listen(
    ours: socket.socket, torchrun: subprocess.Popen[bytes], stop: StopSignal, on_line: Callable[[dict[str, Any]], None]
) -> None:
    """Hand on what the processes report, and pass on a signal, until they are gone."""
    ours.settimeout(_LOOK_EVERY_S)
    unfinished = b""
    passed_on = False
    while True:
        try:
            data = ours.recv(2**16)
        except TimeoutError:
            if torchrun.poll() is not None:  # killed: its workers would go on alone
                return
        else:
            if not data:
                return
            *lines, unfinished = (unfinished + data).split(b"\n")
            for line in lines:
                on_line(orjson.loads(line))
        if stop.signal is not None and not passed_on:
            stop.pass_on()
            passed_on = True


def _end(ours: socket.socket, torchrun: subprocess.Popen[bytes]) -> None:
    """Have no process of the run left: closing our half of the socket ends the workers, which we see by theirs."""
    ours.shutdown(socket.SHUT_WR)
    ours.settimeout(_WAIT_FOR_END_S)
    with suppress(TimeoutError):
        while ours.recv(2**16):
            pass
    torchrun.kill()
    torchrun.wait()


def _raise_failure(folder: Path, stop: StopSignal) -> None:
    try:
        failure = orjson.loads((folder / FAILURE_FILE).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):  # none, or killed while writing it
        return
    if failure["error"] == Stopped.__name__:
        raise Stopped(stop.signal or failure["why"], failure["step"], Path(failure["out"]))
    raise getattr(errors, failure["error"])(failure["message"])


def _crash(code: int, log: Path, start: int) -> MmkitError:
    """The error for a run that ended without a word of its own, with the end of what its processes wrote."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    cause = _ROOT_CAUSE.search(text)
    if cause is not None:
        who, code, text = f"process {cause[2]}", int(cause[1]), text[: cause.start()]
    else:
        who = "torchrun"
    tail = "\n".join([f"the end of {log}:", *text.splitlines()[-_TAIL_LINES:]])
    if code < 0:
        name = signal.Signals(-code).name
        return LimitError(
            f"{who} was killed by {name}, as happens to one that takes too much memory; the same command goes on from "
            f"the last checkpoint; {tail}"
        )
    return WorkerError(f"{who} ended with code {code}; {tail}")


# --- the workers' side


class Launcher:
    """The launcher as a worker sees it, through standard input."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=os.dup(0))
        threading.Thread(target=self._end_with_it, daemon=True).start()

    def report(self, wire: Mapping[str, Any]) -> None:
        """Hand it a line. For the main process alone: they all write to one socket."""
        self._socket.sendall(orjson.dumps(wire) + b"\n")

    def _end_with_it(self) -> None:
        self._socket.recv(1)
        os._exit(1)


@contextmanager
def failure_written(out: Path) -> Iterator[None]:
    """Leave an MmkitError in OUT/checkpoints, unless another process has left one before, and let it pass."""
    try:
        yield
    except MmkitError as error:
        # Only the first one says what went wrong: the others lose a peer.
        with suppress(FileExistsError, FileNotFoundError), (out / FOLDER / FAILURE_FILE).open("xb") as file:
            file.write(orjson.dumps(_wire(error)))
        raise


def _wire(error: MmkitError) -> dict[str, Any]:
    if isinstance(error, Stopped):
        return {"error": Stopped.__name__, "why": error.why, "step": error.step, "out": str(error.out)}
    known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return {"error": known.__name__, "message": str(error)}
