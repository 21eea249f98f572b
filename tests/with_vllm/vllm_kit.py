"""What the tests against the real vLLM share: its environment, engine arguments for a tiny model, and real servers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

QUIET_AND_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
# One process, where a test runs the engine itself; a server has its engine in a process of its own.
IN_PROCESS = {**QUIET_AND_OFFLINE, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
SERVING = {**QUIET_AND_OFFLINE, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

# float32, so that figures can be held against transformers; blocks of 32, so that short prompts share a prefix.
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 16,
    "block_size": 32,
    "kv_cache_memory_bytes": 256 << 20,
    "limit_mm_per_prompt": {"image": 2},
    "seed": 0,
}
CORPUS = (
    "What is in the image? a red circle. Which colour is the square? blue.",
    "Look at the picture and answer in a few words: how many triangles are there? two or three.",
    "You are a helpful assistant. The answer is yes. It is a word, not a number.",
) * 20
COLOURS = ("red", "green", "blue")
TOO_LONG = "red " * 6000
SERVED_AS = "tiny"
_START_WITHIN_S = 180.0
_MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]


def mmkit(folder: Path, *arguments: str) -> str:
    """What the command writes to stdout; it must end well."""
    done = subprocess.run([*_MMKIT, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class Server:
    """A server in a process group of its own, on a port of the loopback. `base_url` ends in /v1; it serves `model`."""

    def __init__(self, arguments: list[str], log: Path, *, port: int | None = None, model: str = SERVED_AS) -> None:
        self.port = port or free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.model = model
        self.log = log
        # The environment's own programs first: the server looks some of them up by name.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [*arguments, "--host", "127.0.0.1", "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **SERVING, "PATH": path},
                start_new_session=True,
            )

    def wait(self) -> Server:
        """Return when it answers. Raises RuntimeError with the end of its log where it ends first or takes too long."""
        deadline = time.monotonic() + _START_WITHIN_S
        while not self.healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)
        return self

    def healthy(self) -> bool:
        """Whether it answers now."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False

    def kill(self) -> None:
        """End it and its children at once, as the kernel would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def vllm_serve(model: Path, *more: str) -> list[str]:
    """The command that serves `model` under the name `tiny`, without host and port."""
    return [
        *(str(Path(sys.executable).parent / "vllm"), "serve", str(model), "--served-model-name", SERVED_AS),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16"),
        *("--block-size", "32", "--kv-cache-memory-bytes", str(256 << 20), "--seed", "0"),
        *("--limit-mm-per-prompt", '{"image": 2}', "--disable-uvicorn-access-log"),
        *more,
    ]


def post(server: Server, path: str, **body: Any) -> tuple[int, Any]:
    """Status and body of the answer to a bare request, for the model that the server serves."""
    import httpx

    answer = httpx.post(f"{server.base_url}{path}", json={"model": server.model, **body}, timeout=120)
    return answer.status_code, answer.json()


def shut_down(engine: Any) -> None:
    """End an LLMEngine of this process, so that another one can be made."""
    from vllm.distributed import cleanup_dist_env_and_memory

    engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
