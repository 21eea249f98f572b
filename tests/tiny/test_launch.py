"""The launcher with real processes under torchrun, which act in place of training; and the ways that they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed_kit import ENVIRONMENT, WORKERS

from mmkit.errors import DataError, LimitError, UsageError
from mmkit.training import Placement, TuneConfig
from mmkit.training.launch import WorkerError, num_processes, run_under_torchrun
from mmkit.training.stopping import Stopped, StopSignal

pytestmark = pytest.mark.tiny

TWO = Placement(nproc=2)
CPU = TuneConfig(device="cpu")


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Runs two processes that do the named act; gives what was heard of them."""
    for name, value in (ENVIRONMENT | {"PYTHONPATH": f"{WORKERS}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "checkpoints").mkdir()

    def start(name: str, on_line: Callable[[dict[str, Any]], None] = lambda line: None) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        (tmp_path / "act").write_text(name)
        run_under_torchrun(tmp_path, TWO, 2, lambda line: (heard.append(line), on_line(line))[1], module="stand_in")
        return heard

    return start


def assert_gone(out: Path) -> None:
    for rank in range(2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((out / f"pid-{rank}").read_text()), 0)


def test_each_step_is_heard_once_and_in_order(act: Any, tmp_path: Path) -> None:
    heard = act("three_steps")
    assert [line["step"] for line in heard] == [1, 2, 3]
    assert heard[1]["loss"] == 0.5
    log = tmp_path / "checkpoints" / "torchrun.log"
    assert log.read_text().count("a line of the worker") == 2  # nothing of it on our own stderr


def test_an_error_of_any_process_keeps_its_class_and_words(act: Any) -> None:
    with pytest.raises(DataError, match=r"^record 'x': no messages$"):
        act("bad_row")


def test_the_failure_of_an_earlier_run_is_not_this_ones(act: Any) -> None:
    with pytest.raises(DataError):
        act("bad_row")
    assert len(act("three_steps")) == 3


def test_a_bug_is_shown_with_its_traceback(act: Any) -> None:
    with pytest.raises(
        WorkerError, match=r"(?s)^process 1 ended with code 1; .*torchrun\.log:.*a planted bug"
    ) as error:
        act("bug")
    assert error.value.exit_code == 1


def test_a_killed_process_ends_the_run_as_a_limit_does(act: Any) -> None:
    with pytest.raises(LimitError, match="process 1 was killed by SIGKILL") as error:
        act("killed")
    assert error.value.exit_code == 75


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_all_processes_by_the_file(act: Any, tmp_path: Path, number: signal.Signals, code: int) -> None:
    with pytest.raises(Stopped, match=rf"^stopped by {number.name} after step 7 of ") as error:
        act("until_stopped", lambda line: os.kill(os.getpid(), number))
    assert error.value.exit_code == code
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert not (tmp_path / "checkpoints" / "stop").exists()  # or the next run would stop too
    assert_gone(tmp_path)


def test_a_file_stops_them_too(act: Any, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="stopped by stop file after step 7") as error:
        act("until_stopped", lambda line: (tmp_path / "checkpoints" / "stop").touch())
    assert error.value.exit_code == 75


def test_a_second_interrupt_ends_processes_that_do_not_listen(act: Any, tmp_path: Path) -> None:
    def twice(line: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        act("deaf", twice)
    assert_gone(tmp_path)


def test_an_error_of_the_listener_leaves_no_process_behind(act: Any, tmp_path: Path) -> None:
    def fail(line: dict[str, Any]) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        act("deaf", fail)
    assert_gone(tmp_path)


def test_processes_end_with_a_launcher_that_was_killed(act: Any, tmp_path: Path) -> None:
    """`act` only prepares the environment here: the launcher is a process of its own, which kills itself."""
    script = (
        "import os, pathlib, sys\n"
        "from mmkit.training import Placement\n"
        "from mmkit.training.launch import run_under_torchrun\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "run_under_torchrun(out, Placement(nproc=2), 2, lambda line: os.kill(os.getpid(), 9), module='stand_in')\n"
    )
    (tmp_path / "act").write_text("deaf")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    # The kernel has closed its sockets by now; what is left is for the workers to see that and go.
    for rank in range(2):
        wait_for_end(int((tmp_path / f"pid-{rank}").read_text()))


def test_an_outer_torchrun_hears_of_the_run_on_stderr(act: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "stop").touch()  # of an earlier run
    (tmp_path / "act").write_text("three_steps")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, "-m", "stand_in", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("mmkit.training: step")]
    assert told[0] == "mmkit.training: step 1 of 3, loss 1.0000, lr 0.1, 1 tokens/s"
    assert told[-1].startswith("mmkit.training: step 3 of 3")
    assert not (tmp_path / "checkpoints" / "stop").exists()


def wait_for_end(pid: int) -> None:
    """Returns when the process is gone; the time limit of the test is the limit."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def test_signals_are_requests_while_it_is_entered_and_a_second_interrupt_is_not(tmp_path: Path) -> None:
    with StopSignal(tmp_path) as stop:
        assert stop.requested() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested() == "SIGTERM"
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested() == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignal(tmp_path) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested() is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_the_file_alone_is_heard(tmp_path: Path) -> None:
    heard = []

    def listen() -> None:
        with StopSignal(tmp_path) as stop:
            heard.append(stop.requested())
            (tmp_path / "checkpoints").mkdir()
            (tmp_path / "checkpoints" / "stop").touch()
            heard.append(stop.requested())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [None, "stop file"]


@pytest.mark.parametrize(
    ("nproc", "device", "gpus", "expected"),
    [
        (None, "auto", 4, 4),
        (None, "cpu", 4, 1),
        (None, "auto", 0, 1),
        (2, "auto", 4, 2),
        (2, "cpu", 0, 2),
        (2, "auto", 0, 2),
        (1, "cuda", 0, 1),  # the run itself says that there is none
    ],
)
def test_how_many_processes(
    nproc: int | None, device: str, gpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert num_processes(Placement(nproc=nproc), TuneConfig(device=device)) == expected


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 0), ("cuda", 1), ("auto", 1)])
def test_more_processes_than_gpus_are_refused(device: str, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    with pytest.raises(UsageError, match=f"2 processes need as many GPUs, and {gpus} are visible"):
        num_processes(TWO, TuneConfig(device=device))


def test_the_launcher_needs_no_torch() -> None:
    script = "import sys, mmkit.training.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT).returncode == 0
