"""Recorded answers in place of a model: for tests, demonstrations and reruns of a stage on somebody else's replies."""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from mmkit.engines import Choice, Reply, Request, Turn, Usage
from mmkit.errors import DataError, MissingInputError

_GENERATED = "text or turns"
_CHOSEN = "log_probs"


class ReplayEngine:
    """Answers from a JSONL file, looked up by request id.

    A row is `{"id", …}` with one of `text` or `turns` (`[{"role", "text"}]`) for `generate`, `log_probs` (choice →
    number) for `choose`, or `error` for either; also `truncated`, `usage` and `delay_s` (seconds to wait before the
    answer) if wanted. Several rows of one id answer the requests of that id in the file's order, for `generate` and
    `choose` apart. A request without a row gets an error.

    Raises MissingInputError where the file is not there and DataError, with file and line, where a row is malformed.
    """

    def __init__(self, path: str | os.PathLike[str], *, window: int = 1, model: str = "replay") -> None:
        self.window = window
        self.model = model
        self._path = Path(path)
        self._answers: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self._asked: Counter[tuple[str, str]] = Counter()
        self._load()

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One recorded reply a request, in order."""
        for request in requests:
            row = self._next(_GENERATED, request.id)
            turns = tuple(Turn(turn["role"], turn["text"]) for turn in row.get("turns", ()))
            yield Reply(
                request.id,
                row.get("text", ""),
                turns,
                row.get("truncated", False),
                _usage(row),
                row.get("error"),
            )

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        """The recorded log-probabilities of `choices`, in order; others that the row holds are left out."""
        for request in requests:
            row = self._next(_CHOSEN, request.id)
            recorded = row.get("log_probs", {})
            missing = [choice for choice in choices if choice not in recorded]
            error = row.get("error")
            if error is None and missing:
                error = f"no recorded log-probability of choice {missing[0]!r} for id {request.id!r}"
            found = {} if error is not None else {choice: float(recorded[choice]) for choice in choices}
            yield Choice(request.id, found, _usage(row), error)

    def close(self) -> None:
        """Nothing is held open."""

    def _next(self, kind: str, request_id: str) -> Mapping[str, Any]:
        key = (kind, request_id)
        rows, asked = self._answers.get(key, ()), self._asked[key]
        self._asked[key] += 1
        if asked >= len(rows):
            counted = f" (request {asked + 1} of this id)" if asked else ""
            return {"error": f"no recorded answer for id {request_id!r}{counted} in {self._path}"}
        time.sleep(rows[asked].get("delay_s", 0))
        return rows[asked]

    def _load(self) -> None:
        try:
            with self._path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        self._add(line, f"{self._path}:{number}")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise MissingInputError(f"recorded answers {str(self._path)!r}: no such file") from None

    def _add(self, line: bytes, where: str) -> None:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(f"{where}: invalid JSON: {error}") from None
        problem = _problem(row)
        if problem:
            raise DataError(f"{where}: {problem}")
        if "log_probs" not in row:
            self._answers[_GENERATED, row["id"]].append(row)
        if "log_probs" in row or "error" in row:
            self._answers[_CHOSEN, row["id"]].append(row)


def _problem(row: Any) -> str | None:
    """What is wrong with a recorded row, or None."""
    if not isinstance(row, dict):
        return f"expected an object, got {type(row).__name__}"
    if not isinstance(row.get("id"), str):
        return 'expected a string "id"'
    if not any(isinstance(row.get(key), kind) for key, kind in _ANSWERS.items()):
        return "expected one of " + ", ".join(f'"{key}"' for key in _ANSWERS)
    for key, kind in (_ANSWERS | _EXTRAS).items():
        if key in row and (not isinstance(row[key], kind) or (kind is not bool and isinstance(row[key], bool))):
            return f'"{key}" is of the wrong type: {type(row[key]).__name__}'
    for turn in row.get("turns", ()):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "text")):
            return '"turns": expected objects with the strings "role" and "text"'
    for choice, value in row.get("log_probs", {}).items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return f'"log_probs": expected a number for {choice!r}'
    if row.get("delay_s", 0) < 0:
        return '"delay_s" is negative'
    return None


_ANSWERS: dict[str, Any] = {"text": str, "turns": list, "log_probs": dict, "error": str}
_EXTRAS: dict[str, Any] = {"truncated": bool, "usage": dict, "delay_s": (int, float)}


def _usage(row: Mapping[str, Any]) -> Usage:
    counts = row.get("usage", {})
    names = ("prompt_tokens", "image_tokens", "completion_tokens")
    return Usage(**{name: counts[name] for name in names if isinstance(counts.get(name), int)})
