"""Commands joined by real pipes."""

from __future__ import annotations

import select
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cli_kit import ENVIRONMENT, MMKIT


@pytest.fixture
def many(write: Any) -> str:
    return write("many.jsonl", [{"id": str(i), "caption": "x" * 60} for i in range(100_000)])


def test_a_reader_that_has_seen_enough_is_no_error(shell: Any, many: str) -> None:
    for line in (
        f"mmkit validate {many} | head -1",
        f"mmkit validate {many} --to arrow | head -c 10 | wc -c",
        f"mmkit validate {many} | mmkit validate | head -n 1",
        f"mmkit convert {many} -o >(head -c 9 > /dev/null)",
    ):
        done = shell(line)
        assert done.code == 0, (line, done)
        assert "Error" not in done.err, (line, done.err)
        assert "Exception" not in done.err, (line, done.err)


def test_formats_through_pipes(shell: Any, many: str, tmp_path: Path) -> None:
    lines = f"""
        mmkit convert {many} --limit 3000 -o some.jsonl
        cat some.jsonl | mmkit convert --to arrow | mmkit convert -o a.jsonl
        gzip -c some.jsonl | mmkit convert > b.jsonl
        mmkit convert some.jsonl -o c.arrow && mmkit convert c.arrow -o d.parquet && mmkit convert d.parquet > c.jsonl
        mmkit convert some.jsonl -o e.json && mmkit convert --from json < e.json > d.jsonl
    """
    assert shell(lines).code == 0
    whole = [sorted(row.items()) for row in _rows(tmp_path / "some.jsonl")]
    for name in "abcd":
        assert [sorted(row.items()) for row in _rows(tmp_path / f"{name}.jsonl")] == whole


def _rows(path: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_an_arrow_file_and_parquet_in_a_pipe_say_what_to_do(shell: Any, write: Any) -> None:
    write("in.jsonl", [{"id": "a"}])
    done = shell("mmkit convert in.jsonl -o a.arrow 2>&- && cat a.arrow | mmkit validate")
    assert (done.code, done.err.count("\n")) == (65, 1)
    assert "an Arrow file cannot be read from a pipe" in done.err
    done = shell("mmkit convert in.jsonl -o a.parquet 2>&- && cat a.parquet | mmkit validate")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "Parquet cannot be read from a pipe" in done.err


def test_rows_come_through_while_the_input_is_still_open(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*MMKIT, "validate", "--limit", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"id":"a"}\n{"id":"b"}\n')
    process.stdin.flush()
    try:
        assert process.wait(20) == 0, "--limit 2 waited for a third row"
    finally:
        out, _ = process.communicate()
    assert out == b'{"id":"a"}\n{"id":"b"}\n'


def test_a_slow_pipe_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*MMKIT, "validate"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for name in ("a", "b"):
        time.sleep(0.5)
        process.stdin.write(b'{"id":"%s"}\n' % name.encode())
        process.stdin.flush()
    came, _, _ = select.select([process.stdout], [], [], 20)
    out, _ = process.communicate()
    assert came, "nothing was handed on before the input ended"
    assert out == b'{"id":"a"}\n{"id":"b"}\n'
    assert process.returncode == 0


def test_split_reads_a_process_substitution_once(shell: Any, write: Any) -> None:
    write("in.jsonl", [{"id": str(i), "image": f"{i}.png"} for i in range(20)])
    done = shell("mmkit split <(cat in.jsonl) --take a --ratio a=1 | wc -l")
    assert done.out.strip() == b"20"
    assert "name a file" in shell("mmkit split <(cat in.jsonl) --into parts || true").err


def test_an_input_is_not_fed_with_its_own_output(shell: Any, write: Any, tmp_path: Path) -> None:
    write("in.jsonl", [{"id": "a"}])
    done = shell("mmkit validate in.jsonl >> in.jsonl")
    assert done.code == 2
    assert "is both input and stdout" in done.err
    assert (tmp_path / "in.jsonl").read_bytes() == b'{"id": "a"}\n'
