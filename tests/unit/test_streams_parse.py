"""One line of JSON: exactly what is written, or refused. The fast tests are checked against a strict parse."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stream_kit import json_values, records, text

from mmkit.errors import DataError
from mmkit.streams.rows import encode, parse


@st.composite
def written_json(draw: st.DrawFn) -> str:
    """An object as somebody may write it: odd spacing, odd escapes, sometimes a key twice or an integer too large."""
    space = st.sampled_from(["", "", "", " ", "\t", "\r", "  "])

    def string(value: str) -> str:
        out = []
        for character in value:
            way = draw(st.integers(0, 5))
            if way == 0 and ord(character) < 0x10000:
                code = f"{ord(character):04x}"
                out.append("\\u" + (code.upper() if draw(st.booleans()) else code))
            elif character in '"\\' or ord(character) < 0x20:
                out.append(json.dumps(character)[1:-1])
            else:
                out.append(character)
        return '"' + "".join(out) + '"'

    def number() -> str:
        large = st.integers(-(2**70), 2**70) | st.integers(-(2**63) - 2, -(2**63) + 2) | st.integers(2**64 - 2, 2**64)
        return draw((st.integers(-99, 99) | large).map(str) | st.sampled_from(["1e30", "-0", "0.5", "1E2", "9e-5"]))

    def value(depth: int) -> str:
        kind = draw(st.integers(0, 5 if depth else 3))
        if kind == 0:
            return number()
        if kind <= 2:
            return string(draw(strings))
        if kind == 3:
            return draw(st.sampled_from(["null", "true", "false"]))
        if kind == 4:
            return "[" + ",".join(draw(space) + value(depth - 1) for _ in range(draw(st.integers(0, 3)))) + "]"
        return objects(depth - 1)

    def objects(depth: int) -> str:
        pairs = [
            draw(space) + string(draw(keys)) + draw(space) + ":" + draw(space) + value(depth) + draw(space)
            for _ in range(draw(st.integers(0, 4)))
        ]
        return "{" + ",".join(pairs) + "}"

    keys = st.sampled_from(["a", "b", "c", 'a"', '":', "é", "\\", ""])
    strings = st.sampled_from(['":', '"', ":", '\\":', "e", "0" * 21, '{"a":1,"a":2}']) | text
    return objects(3)


def strictly(line: str) -> Any:
    """The standard library's reading, with duplicate keys and integers beyond 64 bit refused."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) != len(items):
            raise ValueError("duplicate")
        return dict(items)

    def integer(digits: str) -> int:
        if not -(2**63) <= int(digits) < 2**64:
            raise ValueError("large")
        return int(digits)

    return json.loads(line, object_pairs_hook=pairs, parse_int=integer)


def same(one: Any, other: Any) -> bool:
    if type(one) is dict and type(other) is dict:
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if type(one) is list and type(other) is list:
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@settings(max_examples=500)
@given(written_json())
@example('{"a"\r:1,"a":2}')
@example('{"a":1,"a":"\\"\\u003a"}')
@example('{"a":1,"a":"\\u0022:"}')
@example('{"a":"\\":","a":1}')
@example('{"a":18446744073709551616}')
@example('{"a":-9223372036854775809}')
@example('{"a":[1e30,100000000000000000000]}')
def test_parse_accepts_exactly_what_a_strict_parser_reads(line: str) -> None:
    try:
        expected = strictly(line)
    except ValueError:
        with pytest.raises(DataError):
            parse(line.encode(), 1, "json")
        return
    value, unchanged, has_made_id = parse(line.encode(), 1, "json")
    assert (unchanged, has_made_id) == (True, False)
    assert same(value, expected)


@given(st.dictionaries(text, json_values), st.booleans(), st.sampled_from([None, 1]))
def test_what_any_json_writer_writes_is_read(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    line = json.dumps(value, ensure_ascii=ascii_only, indent=indent).replace("\n", "\r")
    assert same(parse(line.encode(), 1, "json")[0], value)


@given(records())
def test_a_written_record_is_read_back(record: dict[str, Any]) -> None:
    assert same(parse(encode(record), 1)[0], record)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id":"a","id":"b"}', 'duplicate key "id"'),
        (b'{"x":{"k":1, "k":1}}', 'duplicate key "k"'),
        (b'{"n":18446744073709551616}', "an integer beyond 64 bit (18446744073709551616"),
        (b'{"n":' + b"9" * 50 + b"}", "an integer beyond 64 bit (999999999999999999999999…)"),
        (b"[1]", "an array where one JSON object a line is expected"),
        (b'"hi"', 'expected a JSON object, got "hi"'),
        (b"null", "expected a JSON object, got null"),
        (b'{"a":1', "invalid JSON at column"),
        (b'{"a":NaN}', "(NaN is not JSON; use null)"),
        (b'{"a":-Infinity}', "(Infinity is not JSON; use null)"),
        (b'{"a":"\xff"}', "not valid UTF-8 (byte 7 of the line)"),
        (b'{"a":"\\ud800"}', "invalid JSON"),
        (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", "nested more than"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid JSON"),
    ],
)
def test_what_cannot_be_carried_exactly_is_refused(line: bytes, message: str) -> None:
    with pytest.raises(DataError) as raised:
        parse(line, 1)
    assert message in str(raised.value)


def test_limits_of_64_bit_are_carried() -> None:
    line = b'{"id":"a","n":[18446744073709551615, -9223372036854775808]}'
    record, unchanged, _ = parse(line, 1)
    assert unchanged
    assert record["n"] == [2**64 - 1, -(2**63)]


def test_bytes_and_what_json_lacks_cannot_be_encoded() -> None:
    with pytest.raises(DataError, match="--images-to DIR"):
        encode({"id": "a", "images": [{"bytes": b"x"}]})
    with pytest.raises(DataError, match="cannot be written as JSON"):
        encode({"id": "a", "n": math.comb(200, 100)})
    assert orjson.loads(encode({"id": "a"})) == {"id": "a"}
