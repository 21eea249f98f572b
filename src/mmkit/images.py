"""Image references: resolve them against a root, load them safely, hash them, send them.

An image file is hostile until decoded: sizes are checked before pixels are, a truncated file is an error and never a
grey rectangle, and a bomb is refused by its header.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mmkit.errors import DataError, MissingInputError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""Largest width × height that is decoded. 100 megapixels are 300 MB as RGB."""

_MIME_OF_FORMAT = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""The orientations that exchange width and height."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Named one by one, since PIL would also run Ghostscript over an EPS file."""


@dataclass(slots=True)
class LoadedImage:
    """The bytes of an image that has been decoded once without complaint. `name` is what messages call it."""

    data: bytes
    name: str
    mime: str
    _rgb: Image | None = field(default=None, repr=False, compare=False)

    def rgb(self) -> Image:
        """The picture as RGB with its EXIF orientation applied.

        Loading has decoded it already; the first call hands that over and forgets it, a later one decodes again. So
        what waits in a window or in flight is the encoded bytes, not 36 MB for each photo of 12 megapixels.
        """
        picture, self._rgb = self._rgb, None
        return picture if picture is not None else _decode(self.data, self.name)[0]

    def sha256(self) -> str:
        """Hex digest of the encoded bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def data_uri(self) -> str:
        """The original bytes as a data URI; formats that servers do not take are sent as PNG."""
        data, mime = self.data, self.mime
        if mime not in _MIME_OF_FORMAT.values():
            data, mime = _to_png(self.rgb()), "image/png"
        self._rgb = None
        return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def load(reference: Mapping[str, Any], root: str | os.PathLike[str] | None = None) -> LoadedImage:
    """Read and decode one entry of a record's `images`.

    A relative path resolves against `root`, else against the working directory; a `data:` URI and inline bytes stand
    for themselves. Raises MissingInputError where no file is, DataError where the file is no whole image or is larger
    than MAX_PIXELS.
    """
    data, name = _read(reference, root)
    rgb, mime = _decode(data, name)
    return LoadedImage(data, name, mime, rgb)


def size_of(reference: Mapping[str, Any], root: str | os.PathLike[str] | None = None) -> tuple[int, int]:
    """(width, height) in pixels of one entry of a record's `images`, its EXIF orientation applied, from the file's
    header: pixels are not decoded, so that a file which is broken behind its header has a size all the same.

    Errors as in `load`, but for what only decoding shows.
    """
    from PIL import Image, ImageOps

    file, name = _open(reference, root)
    with file, _explained(name):
        picture = _opened(file, name)
        if picture.format == "TIFF" or (picture.format == "PNG" and _ends_with_metadata(file)):
            return ImageOps.exif_transpose(picture).size  # PIL learns their orientation from decoding them
        # Of a PNG its own method would decode all pixels first, for metadata behind them.
        turned = Image.Image.getexif(picture).get(_EXIF_ORIENTATION) in _TURNED
        width, height = picture.size
        return (height, width) if turned else (width, height)


def sha256(reference: Mapping[str, Any], root: str | os.PathLike[str] | None = None) -> str:
    """Hex digest of the encoded bytes of one entry of a record's `images`, which are not decoded.

    Errors as in `load`, but for what only decoding shows.
    """
    return hashlib.sha256(_read(reference, root)[0]).hexdigest()


def resolve(path: str, root: str | os.PathLike[str] | None = None) -> Path:
    """The file that a record's path means."""
    return Path(path) if root is None else Path(root) / path  # an absolute path stands for itself


def blank(size: tuple[int, int] = (336, 336)) -> LoadedImage:
    """A black image of (width, height) pixels, standing for "no image"."""
    from PIL import Image

    picture = Image.new("RGB", size)
    return LoadedImage(_to_png(picture), "blank", "image/png", picture)


def _read(reference: Mapping[str, Any], root: str | os.PathLike[str] | None) -> tuple[bytes, str]:
    file, name = _open(reference, root)
    with file:
        try:
            return file.read(), name
        except OSError as error:
            raise DataError(f"image {name!r} cannot be read: {error}") from None


def _open(reference: Mapping[str, Any], root: str | os.PathLike[str] | None) -> tuple[BinaryIO, str]:
    """The image's bytes as a file, and what messages call it. Raises DataError where it is empty."""
    inline = reference.get("bytes")
    if isinstance(inline, bytes | bytearray):
        return _in_memory(bytes(inline), str(reference.get("path") or "(inline bytes)"))
    path = reference.get("path")
    if not isinstance(path, str) or not path:
        raise DataError("an image has neither a path nor bytes")
    if path.startswith("data:"):
        return _in_memory(_from_data_uri(path), "(data URI)")
    target = resolve(path, root)
    try:
        found = target.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"image {path!r} is no regular file")
        if not found.st_size:
            raise DataError(f"image {path} is empty (0 bytes)")
        return target.open("rb"), path
    except (FileNotFoundError, NotADirectoryError):
        tried = Path(root) if root is not None else Path.cwd()
        raise MissingInputError(f"image {path!r} not found (image root: {tried})") from None
    except (OSError, ValueError) as error:
        raise DataError(f"image {path!r} cannot be read: {error}") from None


def _in_memory(data: bytes, name: str) -> tuple[BinaryIO, str]:
    if not data:
        raise DataError(f"image {name} is empty (0 bytes)")
    return io.BytesIO(data), name


def _from_data_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise DataError("an image's data URI is not base64")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise DataError("an image's data URI holds broken base64") from None


def _decode(data: bytes, name: str) -> tuple[Image, str]:
    from PIL import ImageOps

    with _explained(name):
        picture = _opened(io.BytesIO(data), name)
        mime = _MIME_OF_FORMAT.get(picture.format or "", "application/octet-stream")
        picture.load()
        return ImageOps.exif_transpose(picture).convert("RGB"), mime


def _opened(file: BinaryIO, name: str) -> Image:
    """The image by its header, within MAX_PIXELS."""
    from PIL import Image

    picture = Image.open(file, formats=_FORMATS)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise DataError(f"image {name} has {width}×{height} pixels, more than {MAX_PIXELS:,}")
    return picture


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what PIL raises into one sentence about the image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # The size is checked against our own limit; what else PIL warns of, it has put up with.
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"image {name} has more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise DataError(f"image {name} is no image that can be read ({', '.join(_FORMATS)})") from None
    except Exception as error:  # noqa: BLE001 - broken files make PIL's decoders raise struct.error, KeyError and more
        raise DataError(f"image {name} is broken: {error}") from None


def _ends_with_metadata(png: BinaryIO) -> bool:
    """Whether a PNG holds anything between its last pixels and its end. Leaves the file where it was."""
    before, kind, last = png.tell(), b"", b""
    png.seek(8)
    while len(head := png.read(8)) == 8 and kind != b"IEND":
        last, kind = kind, head[4:]
        png.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    png.seek(before)
    return kind == b"IEND" and last != b"IDAT"


def _to_png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
