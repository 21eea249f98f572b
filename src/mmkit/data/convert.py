"""Records to other shapes and other places for their images. (Reading a foreign shape is the reader's work.)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mmkit import images
from mmkit.errors import DataError
from mmkit.records import IMAGE_MARKER, Record
from mmkit.streams import Row, each
from mmkit.streams.rows import Stage

Shape = Literal["records", "llava"]
_LLAVA_NAMES = {"user": "human", "assistant": "gpt", "system": "system"}
_SUFFIX_OF_MIME = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/gif": ".gif"}


def convert(*, shape: Shape = "records", images_to: str | None = None, image_root: str | None = None) -> Stage:
    """A stage that writes canonical records, or LLaVA's shape.

    With `images_to` every image is written into that directory under the hash of its bytes, and its reference points
    there: the way from inline bytes (Parquet, data URIs) to files.
    """
    directory = None if images_to is None else Path(images_to)

    def change(row: Row) -> Row:
        record = row.record
        if directory is not None and record.get("images"):
            record = {**record, "images": [_moved(image, directory, image_root) for image in record["images"]]}
        if shape == "llava":
            record = to_llava(record)
        return row if record is row.record else row.replaced(record)

    return each(change)


def to_llava(record: Record) -> Record:
    """The record in LLaVA's shape: `image` and `conversations` with `<image>` markers; other fields unchanged.

    Raises DataError for what the shape cannot say: a text that holds the marker itself, or no messages.
    """
    if not isinstance(record.get("messages"), list):
        raise DataError("messages: LLaVA's shape needs a conversation (see mmkit compose)")
    rest = {name: value for name, value in record.items() if name not in ("id", "images", "messages")}
    paths = [image.get("path") for image in record.get("images") or ()]
    if not all(paths):
        raise DataError("images hold inline bytes; put them into files with --images-to DIR")
    image = {} if not paths else {"image": paths[0] if len(paths) == 1 else paths}
    turns = [_llava_turn(message) for message in record["messages"]]
    return {"id": record["id"], **image, "conversations": turns, **rest}


def _llava_turn(message: Mapping[str, Any]) -> dict[str, Any]:
    pieces = []
    for part in message["content"]:
        if part["type"] == "image":
            pieces.append(IMAGE_MARKER)
        elif IMAGE_MARKER in part["text"]:
            raise DataError(f"a text holds {IMAGE_MARKER} itself, which LLaVA's shape would take for an image")
        else:
            pieces.append(part["text"])
    rest = {name: value for name, value in message.items() if name not in ("role", "content")}
    return {"from": _LLAVA_NAMES[message["role"]], "value": "\n".join(pieces), **rest}


def _moved(reference: Mapping[str, Any], directory: Path, image_root: str | None) -> dict[str, Any]:
    image = images.load(reference, image_root)
    target = directory / f"{image.sha256()}{_SUFFIX_OF_MIME.get(image.mime, '.bin')}"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(target.name + ".part")
        unfinished.write_bytes(image.data)
        unfinished.replace(target)
    return {**{name: value for name, value in reference.items() if name != "bytes"}, "path": str(target)}
