"""The record: what its fields mean, which shapes are accepted, what is refused.

A record is a plain dict. `normalise` turns the shapes that users have (`image`, LLaVA's `conversations`, plain-string
content) into the canonical one, and `check` says what is wrong with a canonical record. Fields that neither knows ride
along untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from mmkit.errors import DataError

Record = dict[str, Any]

ROLES = ("system", "user", "assistant")
_TEXT_FIELDS = ("task", "caption", "question", "context", "answer", "rationale", "prediction")
_TEXT_LISTS = ("choices", "answers")
_LLAVA_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
IMAGE_MARKER = "<image>"
"""LLaVA's placeholder. It has a meaning in foreign shapes only: in a canonical record it is text like any other."""


def is_canonical(record: Mapping[str, Any]) -> bool:
    """Whether the record's shape is the canonical one already, so that its original bytes can stand for it."""
    if "image" in record or "conversations" in record or not isinstance(record.get("id"), str) or not record["id"]:
        return False
    images = record.get("images")
    if isinstance(images, list):
        for image in images:
            if isinstance(image, str):
                return False
    messages = record.get("messages")
    if isinstance(messages, list):
        for message in messages:
            if isinstance(message, dict) and isinstance(message.get("content"), str):
                return False
    return True


def normalise(record: Mapping[str, Any], made_id: str) -> Record:
    """The canonical form of a record of any accepted shape; a new dict, the argument is not changed.

    A missing id becomes `made_id`. `image` (a path or a list of them) and plain paths in `images` become references;
    LLaVA's `conversations` and plain-string message contents become lists of parts, each `<image>` marker an image
    part where the number of markers in the record is that of its images. Raises DataError.
    """
    result: Record = dict(record)
    record_id = result.get("id")
    if isinstance(record_id, int) and not isinstance(record_id, bool):
        result["id"] = str(record_id)
    elif record_id is None or record_id == "":
        result = {**result, "id": made_id} if "id" in result else {"id": made_id, **result}
    if "image" in result:
        if result.get("images"):
            raise DataError('both "image" and "images" are given')
        image = result.pop("image")
        result["images"] = [] if image is None else image if isinstance(image, list) else [image]
    if isinstance(result.get("images"), list):
        result["images"] = [{"path": image} if isinstance(image, str) else image for image in result["images"]]
    if "conversations" in result:
        if result.get("messages"):
            raise DataError('both "conversations" and "messages" are given')
        result["messages"] = [_from_llava(turn, i) for i, turn in _numbered(result.pop("conversations"))]
    if isinstance(result.get("messages"), list):
        result["messages"] = _with_parts(result["messages"], len(result.get("images") or ()))
    return result


def made_id(raw: bytes, line: int) -> str:
    """An id for a record that has none: from its content and its line, the same in every run."""
    return f"{hashlib.blake2b(raw, digest_size=8).hexdigest()}-{line}"


def check(record: Mapping[str, Any]) -> None:
    """Raise DataError, naming the field, where a canonical record is not what it should be."""
    get = record.get
    record_id = get("id")
    if type(record_id) is not str or not record_id:
        raise DataError(f"id: expected a string, got {_kind(record_id)}")
    for name in _TEXT_FIELDS:
        value = get(name)
        if value is not None and type(value) is not str:
            raise DataError(f"{name}: expected a string, got {_kind(value)}")
    for name in _TEXT_LISTS:
        value = get(name)
        if value is not None:
            _check_texts(name, value)
    images = get("images")
    if images is not None:
        _check_images(images)
    messages = get("messages")
    if messages is not None:
        placeholders = _check_messages(messages)
        if placeholders != len(images or ()):
            raise DataError(
                f"messages hold {placeholders} image {'part' if placeholders == 1 else 'parts'}, "
                f"but images has {len(images or ())} {'entry' if len(images or ()) == 1 else 'entries'}"
            )
    weight = get("weight")
    if weight is not None and ((type(weight) is not float and type(weight) is not int) or not 0 <= weight < 1e300):
        shown = weight if type(weight) in (int, float) else _kind(weight)
        raise DataError(f"weight: expected a number that is not negative, got {shown}")
    lineage = get("lineage")
    if lineage is not None and not (type(lineage) is list and all(type(entry) is dict for entry in lineage)):
        raise DataError("lineage: expected a list of objects")


def parts_text(message: Mapping[str, Any]) -> str:
    """The text parts of one message, joined as they stand."""
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def question_of(record: Mapping[str, Any]) -> str | None:
    """The record's question, else its first user turn; None where there is neither, or it is blank."""
    question = record.get("question")
    if question is None:
        asked = (parts_text(message) for message in record.get("messages") or () if message["role"] == "user")
        question = next(asked, None)
    return question if question and question.strip() else None


def text_part(text: str) -> dict[str, str]:
    """A text part of a message's content."""
    return {"type": "text", "text": text}


def message(role: str, text: str, num_images: int = 0) -> dict[str, Any]:
    """A canonical message: `num_images` image parts, then the text."""
    return {"role": role, "content": [*({"type": "image"} for _ in range(num_images)), text_part(text)]}


def with_lineage(record: Record, entry: Mapping[str, Any]) -> Record:
    """The record with one more step in its lineage; a new dict."""
    return {**record, "lineage": [*(record.get("lineage") or ()), dict(entry)]}


def _check_texts(name: str, value: Any) -> None:
    if type(value) is not list:
        raise DataError(f"{name}: expected a list of strings, got {_kind(value)}")
    for i, item in enumerate(value):
        if type(item) is not str:
            raise DataError(f"{name}[{i}]: expected a string, got {_kind(item)}")


def _check_images(images: Any) -> None:
    if type(images) is not list:
        raise DataError(f"images: expected a list, got {_kind(images)}")
    for i, image in enumerate(images):
        if type(image) is not dict:
            raise DataError(f"images[{i}]: expected an object with a path, got {_kind(image)}")
        path = image.get("path")
        if (type(path) is not str or not path) and not isinstance(image.get("bytes"), bytes):
            raise DataError(f"images[{i}].path: expected a string, got {_kind(path)}")


def _check_messages(messages: Any) -> int:
    """The number of image parts. One pass without helpers: this is the hot path of every stream."""
    if type(messages) is not list:
        raise DataError(f"messages: expected a list, got {_kind(messages)}")
    placeholders = 0
    for i, turn in enumerate(messages):
        if type(turn) is not dict:
            raise DataError(f"messages[{i}]: expected an object, got {_kind(turn)}")
        if turn.get("role") not in ROLES:  # a tuple: what is no string may not be hashable
            raise DataError(f'messages[{i}].role: expected "user" or "assistant", got {_shown(turn.get("role"))}')
        content = turn.get("content")
        if type(content) is not list:
            raise DataError(f"messages[{i}].content: expected a list of parts, got {_kind(content)}")
        for j, part in enumerate(content):
            kind = part.get("type") if type(part) is dict else None
            if kind == "text":
                if type(part.get("text")) is not str:
                    raise DataError(
                        f"messages[{i}].content[{j}].text: expected a string, got {_kind(part.get('text'))}"
                    )
            elif kind == "image":
                placeholders += 1
            else:
                raise DataError(f'messages[{i}].content[{j}].type: expected "text" or "image", got {_shown(kind)}')
    return placeholders


def _numbered(conversations: Any) -> Iterable[tuple[int, Any]]:
    if not isinstance(conversations, list):
        raise DataError(f"conversations: expected a list, got {_kind(conversations)}")
    return enumerate(conversations)


def _from_llava(turn: Any, i: int) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise DataError(f"conversations[{i}]: expected an object, got {_kind(turn)}")
    role = _LLAVA_ROLES.get(str(turn.get("from")))
    if role is None:
        raise DataError(f'conversations[{i}].from: expected "human" or "gpt", got {_shown(turn.get("from"))}')
    value = turn.get("value")
    if not isinstance(value, str):
        raise DataError(f"conversations[{i}].value: expected a string, got {_kind(value)}")
    rest = {key: item for key, item in turn.items() if key not in ("from", "value")}
    return {"role": role, "content": value, **rest}


def _with_parts(messages: list[Any], num_images: int) -> list[Any]:
    strings = [m for m in messages if isinstance(m, dict) and isinstance(m.get("content"), str)]
    if not strings:
        return messages
    markers = sum(m["content"].count(IMAGE_MARKER) for m in strings)
    parts = sum(
        1
        for m in messages
        if isinstance(m, dict) and isinstance(m.get("content"), list)
        for part in m["content"]
        if isinstance(part, dict) and part.get("type") == "image"
    )
    if num_images and markers + parts != num_images and parts != num_images:
        raise DataError(
            f"the text holds {markers} {IMAGE_MARKER} {'marker' if markers == 1 else 'markers'}, "
            f"but the record has {num_images} {'image' if num_images == 1 else 'images'}"
        )
    split = bool(num_images) and parts != num_images
    return [
        {**m, "content": _split_markers(m["content"]) if split else [text_part(m["content"])]}
        if isinstance(m, dict) and isinstance(m.get("content"), str)
        else m
        for m in messages
    ]


def _split_markers(text: str) -> list[dict[str, str]]:
    """LLaVA's text as parts; the newline that the format sets between a marker and a text goes with the marker."""
    pieces = text.split(IMAGE_MARKER)
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(pieces):
        if i > 0:
            parts.append({"type": "image"})
            piece = piece.removeprefix("\n")
        if i < len(pieces) - 1:
            piece = piece.removesuffix("\n")
        if piece:
            parts.append(text_part(piece))
    return parts


def _kind(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    names = ((int, "a number"), (float, "a number"), (list, "a list"), (dict, "an object"), (bytes, "bytes"))
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def _shown(value: Any) -> str:
    return f'"{value[:40]}"' if isinstance(value, str) else _kind(value)
