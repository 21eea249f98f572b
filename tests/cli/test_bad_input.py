"""Bad input: one line on stderr with file and line, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import pty
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, MMKIT

GOOD = b'{"id":"a"}\n'


def one_line(done: Any, code: int, *parts: str) -> None:
    assert done.code == code, done
    assert done.err.count("\n") == 1, done.err
    for part in parts:
        assert part in done.err, done.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id":"b"', "in.jsonl:2: invalid JSON at column"),
        (b"[1, 2]", "in.jsonl:2: an array where one JSON object a line is expected"),
        (b'{"id":"\xff"}', "in.jsonl:2: not valid UTF-8 (byte 8 of the line)"),
        (b'{"id":"b","n":100000000000000000000}', "in.jsonl:2: an integer beyond 64 bit (100000000000000000000"),
        (b'{"id":"b","id":"c"}', 'in.jsonl:2: duplicate key "id"'),
        (b'{"id":"b","weight":NaN}', "in.jsonl:2: invalid JSON at column 20"),
        (b'{"id":"b","choices":"yes, no"}', "in.jsonl:2: choices: expected a list of strings, got a string"),
        (b'{"id":"b","images":["x.png"],"messages":[]}', "messages hold 0 image parts, but images has 1 entry"),
        (b'{"id":"b","messages":[{"role":"usr","content":[]}]}', 'messages[0].role: expected "user" or "assistant"'),
        (b'{"id":"\\u001b[2J","\\n":1,"\\n":2}', 'duplicate key "\\n"'),
        (b'{"id":"b","messages":[{"role":"\\u001b[31mred\\r\\n","content":[]}]}', "\\x1b[31mred\\r\\n"),
        (b'{"id":"b","n":' + b"[" * 300 + b"]" * 300 + b"}", "nested more than"),
    ],
)
def test_a_bad_line_is_named_and_can_be_set_aside(
    mmkit: Any, write: Any, tmp_path: Path, line: bytes, message: str
) -> None:
    write("in.jsonl", GOOD + line + b"\n" + GOOD)
    one_line(mmkit("validate", "in.jsonl"), 65, "mmkit validate: in.jsonl:2: ", message)
    done = mmkit("validate", "in.jsonl", "--rejects", "bad.jsonl")
    one_line(done, 0, "3 rows in, 2 kept, 0 dropped, 1 rejected")
    assert done.out == GOOD * 2
    (account,) = map(json.loads, (tmp_path / "bad.jsonl").read_bytes().splitlines())
    assert (account["command"], account["source"], account["line"]) == ("validate", "in.jsonl", 2)


def test_an_empty_file_has_zero_rows(mmkit: Any, write: Any) -> None:
    one_line(mmkit("validate", write("in.jsonl", b"")), 0, "0 rows in")
    one_line(mmkit("validate", write("in.json", b"")), 0, "0 rows in")
    one_line(mmkit("validate"), 0, "0 rows in")


def test_windows_line_ends_and_a_missing_last_newline_are_fine(mmkit: Any, write: Any) -> None:
    done = mmkit("validate", write("in.jsonl", b'\xef\xbb\xbf{"id":"a"}\r\n\r\n{"id":"b"}'))
    assert (done.code, done.out) == (0, b'{"id":"a"}\n{"id":"b"}\n')


def test_a_torn_last_line(mmkit: Any, write: Any) -> None:
    one_line(mmkit("validate", write("in.jsonl", GOOD + b'{"id":"b","cap')), 65, "in.jsonl:2: the last line is torn")


def test_a_line_of_50_megabytes(mmkit: Any, write: Any) -> None:
    row = b'{"id":"a","caption":"' + b"x" * 50_000_000 + b'"}\n'
    done = mmkit("validate", write("in.jsonl", row + GOOD))
    assert done.code == 0
    assert done.out == row + GOOD
    done = mmkit("validate", write("in.jsonl", GOOD + row[:-3] + b"\n"))
    one_line(done, 65, "in.jsonl:2: ")
    assert len(done.err) < 3000


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("command", ["validate", "synthesize"])
def test_bad_images(mmkit: Any, write: Any, picture: Any, tmp_path: Path, command: str) -> None:
    whole = (tmp_path / picture("good.png")).read_bytes()
    cases = {"missing": None, "torn": whole[:-30], "empty": b"", "text": b"hello", "bomb": bomb()}
    messages = {
        "missing": (66, f"image 'missing.png' not found (image root: {tmp_path})"),
        "torn": (65, "image torn.png is broken"),
        "empty": (65, "image empty.png is empty (0 bytes)"),
        "text": (65, "image text.png is no image that can be read"),
        "bomb": (65, "image bomb.png has"),
    }
    write("answers.jsonl", [{"id": f"{n}#0", "text": "x"} for n in ("good", *cases)])
    options = ["--check-images"] if command == "validate" else ["--engine", "replay", "--answers", "answers.jsonl"]
    for name, data in cases.items():
        if data is not None:
            write(f"{name}.png", data)
        write("in.jsonl", [{"id": name, "image": f"{name}.png", "caption": "c"}])
        code, message = messages[name]
        one_line(mmkit(command, "in.jsonl", *options), code, f"mmkit {command}: in.jsonl:1: {message}")
    names = ["good", *cases, "good"]
    write("in.jsonl", [{"id": f"{name}", "image": f"{name}.png", "caption": "c"} for name in names[:-1]])
    done = mmkit(command, "in.jsonl", *options, "--rejects", "bad.jsonl")
    assert "6 rows in" in done.err
    assert "5 rejected" in done.err
    lines = [json.loads(line)["line"] for line in (tmp_path / "bad.jsonl").read_bytes().splitlines()]
    assert lines == [2, 3, 4, 5, 6]


def test_missing_inputs(mmkit: Any, write: Any, tmp_path: Path) -> None:
    one_line(mmkit("validate", "gone.jsonl"), 66, "mmkit validate: gone.jsonl: no such file")
    one_line(mmkit("validate", "."), 66, "is a directory")
    one_line(mmkit("validate", write("a.jsonl", GOOD), "gone.jsonl"), 66, "gone.jsonl: no such file")


def test_a_model_directory_that_is_none(mmkit: Any, write: Any, picture: Any, tmp_path: Path) -> None:
    write("in.jsonl", [{"id": "a", "image": picture("a.png"), "caption": "c", "question": "q?"}])
    (tmp_path / "notamodel").mkdir()
    done = mmkit("predict", "in.jsonl", "--model", "notamodel")
    one_line(done, 65, "mmkit predict: ", "notamodel", "config.json")


def test_an_endpoint_that_is_down(mmkit: Any, write: Any) -> None:
    write("in.jsonl", [{"id": "a", "question": "q?"}])
    options = ["--engine", "openai", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--retries", "0"]
    # No row is at fault, so none is set aside: the run stops.
    for more in ([], ["--rejects", "bad.jsonl"]):
        done = mmkit("predict", "in.jsonl", *options, *more)
        one_line(done, 69, "mmkit predict: cannot connect to http://127.0.0.1:9/v1")


def test_a_full_disk_behind_stdout(shell: Any, write: Any) -> None:
    write("in.jsonl", [{"id": str(i), "caption": "x" * 300} for i in range(5000)])
    one_line(shell("mmkit validate in.jsonl > /dev/full"), 75, "stdout: No space left on device")
    write("one.jsonl", GOOD)
    one_line(shell("mmkit validate one.jsonl > /dev/full"), 75, "stdout: No space left on device")
    one_line(shell("mmkit eval --list > /dev/full"), 75, "stdout: No space left on device")


def test_a_full_disk_behind_o_and_the_same_command_again(mmkit: Any, write: Any, tmp_path: Path) -> None:
    write("in.jsonl", [{"id": str(i), "caption": "x" * 300} for i in range(20_000)])
    whole = (tmp_path / "in.jsonl").read_bytes()
    limit = len(whole) // 2

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = mmkit("validate", "in.jsonl", "-o", "out.jsonl", preexec_fn=small)
    assert done.code == 75
    assert "out.jsonl: File too large; free some space and run the same command again" in done.err
    assert not (tmp_path / "out.jsonl").exists()
    assert mmkit("validate", "in.jsonl", "-o", "out.jsonl").code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_outputs_that_cannot_be_written(mmkit: Any, write: Any, tmp_path: Path) -> None:
    write("in.jsonl", GOOD)
    one_line(mmkit("validate", "in.jsonl", "-o", "in.jsonl/x.jsonl"), 2, "cannot be written")
    one_line(mmkit("validate", "in.jsonl", "-o", tmp_path), 2, "is a directory")
    one_line(mmkit("validate", "in.jsonl", "-o", "x.parquet.gz"), 2, "name it .parquet")
    one_line(mmkit("doctor", "-o", "in.jsonl/x.jsonl"), 2, "cannot be written")
    one_line(mmkit("validate", "in.jsonl", "--rejects", "in.jsonl"), 2, "is an input, too")
    assert (tmp_path / "in.jsonl").read_bytes() == GOOD


def test_closed_standard_streams(shell: Any, write: Any) -> None:
    write("in.jsonl", GOOD)
    one_line(shell("mmkit validate in.jsonl >&-"), 2, "stdout is closed: name an output with -o FILE")
    assert "no input" in shell("mmkit validate <&-").err
    assert shell("mmkit validate in.jsonl <&- 2>&-").out == GOOD
    assert shell("mmkit validate in.jsonl -o out.jsonl <&- >&- 2>&- && cat out.jsonl").out == GOOD


def test_no_output_gets_the_number_of_a_closed_stream(shell: Any, tmp_path: Path) -> None:
    """What a C library says on descriptor 2 would else land in the rows."""
    program = "import os; from mmkit.cli import main; main.app = lambda: exit(os.open('x', 65)); main.main()"
    (tmp_path / "open.py").write_text(program)
    assert shell(f"{sys.executable} open.py <&- >&- 2>&-").code > 2


def test_a_terminal_as_stdin_is_a_usage_error(tmp_path: Path) -> None:
    for command in ("validate", "split", "compose", "predict", "eval"):
        master, slave = pty.openpty()
        arguments = {
            "split": ["--take", "train"],
            "compose": ["--stage", "tasks"],
            "predict": ["--engine", "replay", "--answers", os.devnull],
        }.get(command, [])
        done = subprocess.run(
            [*MMKIT, command, *arguments],
            stdin=slave,
            capture_output=True,
            cwd=tmp_path,
            env=ENVIRONMENT,
            timeout=20,
            check=False,
        )
        os.close(master)
        os.close(slave)
        assert done.returncode == 2, (command, done.stderr)
        assert b"no input: name a file, or pipe records in" in done.stderr
        assert f"Usage: mmkit {command}".encode() in done.stderr


def test_mistakes_in_mmkit_toml(mmkit: Any, write: Any, tmp_path: Path) -> None:
    write("in.jsonl", GOOD)
    for content, parts in (
        (b"[validate]\ncheck_id = true\n", ["mmkit.toml: mmkit validate has no option 'check_id'"]),
        (b"[validat]\ncheck_ids = true\n", ["mmkit.toml: [validat] is no command of mmkit"]),
        (b"modle = 3\n", ["no command has an option 'modle'"]),
        (b"[validate\n", ["mmkit.toml: "]),
        (b"\xff", ["mmkit.toml: "]),
    ):
        write("mmkit.toml", content)
        one_line(mmkit("validate", "in.jsonl"), 2, *parts)
        assert mmkit("validate", "--help").code == 0


def test_mistakes_on_the_command_line(mmkit: Any, write: Any) -> None:
    write("in.jsonl", GOOD)
    for arguments, message in (
        (["validate", "in.jsonl", "--shard", "3/2"], "0 <= I < N"),
        (["validate", "in.jsonl", "--limit", "-1"], "--limit"),
        (["validate", "in.jsonl", "--max-reject-rate", "0.1"], "needs --rejects FILE"),
        (["validate", "in.jsonl", "--check-ids", "--shard", "0/2"], "--check-ids looks at all rows"),
        (["valdate", "in.jsonl"], "valdate"),
        (["validate", "--nosuch"], "--nosuch"),
        (["convert", "in.jsonl", "--to", "json"], "a JSON list goes to a file"),
        (["split", "in.jsonl"], "give one of --take"),
        (["split", "in.jsonl", "--take", "dev"], "--ratio names train, val, test"),
        (["split", "in.jsonl", "--take", "a", "--ratio", "a=.5,b=.6"], "sum to 1.1"),
        (["split", "in.jsonl", "--into", ".", "--ratio", "in=1"], "would overwrite the input"),
        (["split", "in.jsonl", "--into", "d", "--ratio", "../x=1"], "is no name for a file"),
        (["split", "--into", "d"], "name a file, or use --take"),
        (["compose", "in.jsonl"], "--captions FILE goes with --stage single"),
        (["compose", "in.jsonl", "--captions", "in.jsonl", "--limit", "3"], "leave out --limit and --shard"),
        (["synthesize", "in.jsonl", "--captions", "in.jsonl"], "give the captions once"),
        (["synthesize", "in.jsonl"], '[synthesize]\nmodel = "…"'),
        (["synthesize", "in.jsonl", "--model", "m", "--samples", "2"], "needs --temperature above 0"),
        (["predict", "in.jsonl", "--engine", "replay"], "--engine replay needs --answers FILE"),
        (["predict", "in.jsonl", "--engine", "openai", "--model", "m"], "--engine openai needs --base-url"),
        (["filter", "in.jsonl", "--model", "m", "--keep", "yes,maybe"], "--keep maybe: expected some of yes, no, open"),
        (["filter", "in.jsonl", "--model", "m", "--few-shot", "in.jsonl"], "in.jsonl: expected"),
    ):
        done = mmkit(*arguments)
        assert done.code == 2, (arguments, done)
        assert message in done.err, (arguments, done.err)
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("torch", "train", "synthesize captions.jsonl --model somewhere"),
        ("torch", "train", "predict captions.jsonl --model somewhere"),
        ("torch", "train", "finetune talk.jsonl --model somewhere -o out"),
        ("transformers", "train", "finetune talk.jsonl --model somewhere -o out"),
        ("torch", "train", "tiny-model out"),
        ("vllm", "vllm", "predict captions.jsonl --model x --engine vllm"),
        ("httpx", "openai", "predict captions.jsonl --model x --engine openai --base-url http://127.0.0.1:1/v1"),
    ],
)
def test_a_missing_package_is_named_with_what_adds_it(
    write: Any, picture: Any, tmp_path: Path, package: str, extra: str, command: str
) -> None:
    picture("a.png")
    write("captions.jsonl", b'{"id":"a","image":"a.png","caption":"a page","question":"what?"}\n')
    turns = [{"role": role, "content": [{"type": "text", "text": "hello"}]} for role in ("user", "assistant")]
    write("talk.jsonl", json.dumps({"id": "a", "messages": turns}).encode() + b"\n")
    start = f"import sys; sys.modules[{package!r}] = None; from mmkit.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, *command.split()], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT
    )
    assert done.returncode == 69, done.stderr
    assert done.stderr.count("\n") == 1 and f"pip install 'mmkit[{extra}]'" in done.stderr
