"""Images: found under their root, decoded whole or refused in words."""

from __future__ import annotations

import base64
import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmkit import images
from mmkit.errors import DataError, MissingInputError, MmkitError


def encoded(fmt: str = "PNG", size: tuple[int, int] = (20, 10), mode: str = "RGB", **options: Any) -> bytes:
    picture = Image.new("RGB", size)
    picture.putdata([(x * 7 % 256, x % 256, 99) for x in range(size[0] * size[1])])
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, fmt, **options)
    return buffer.getvalue()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_path_resolves_against_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    assert images.load({"path": "a.png"}, tmp_path).rgb().size == (20, 10)
    assert images.load({"path": str(tmp_path / "a.png")}, "/nowhere").mime == "image/png"
    monkeypatch.chdir(tmp_path)
    assert images.load({"path": "a.png"}).data == encoded()
    with pytest.raises(MissingInputError, match=r"image 'b.png' not found \(image root: /nowhere\)"):
        images.load({"path": "b.png"}, "/nowhere")
    with pytest.raises(MissingInputError, match=str(tmp_path)):
        images.load({"path": "b.png"})


def test_bytes_and_data_uris_stand_for_themselves() -> None:
    data = encoded("JPEG")
    assert images.load({"bytes": data, "path": "gone.jpg"}).mime == "image/jpeg"
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    loaded = images.load({"path": uri})
    assert loaded.data_uri() == uri
    assert loaded.sha256() == images.load({"bytes": data}).sha256()
    for broken in ("data:image/png,abc", "data:image/png;base64,@@", "data:"):
        with pytest.raises(DataError, match="data URI"):
            images.load({"path": broken})


def test_formats_that_servers_do_not_take_are_sent_as_png() -> None:
    sent = images.load({"bytes": encoded("BMP")}).data_uri()
    assert sent.startswith("data:image/png;base64,")
    assert images.load({"path": sent}).rgb().tobytes() == images.load({"bytes": encoded("BMP")}).rgb().tobytes()


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGBA", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert images.load({"bytes": encoded(mode=mode)}).rgb().mode == "RGB"


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.load({"bytes": encoded("JPEG", exif=exif)}).rgb().size == (10, 20)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"hello", "is no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is no image that can be read"),
        (encoded()[:-40], "is broken"),
        (encoded("JPEG")[:-20], "is broken"),
        (bomb(), "pixels"),
        (bomb(12_000, 12_000), "12000×12000 pixels, more than 100,000,000"),
    ],
)
def test_what_is_no_whole_image_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(DataError) as raised:
        images.load({"path": "x.png"}, tmp_path)
    assert message in str(raised.value)
    assert "x.png" in str(raised.value)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in ("pipe.png", ".", "/dev/zero", "a\0b"):
        with pytest.raises(MmkitError):
            images.load({"path": path}, tmp_path)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_damaged_file_is_an_error_of_ours_or_an_image(fmt: str) -> None:
    chance = random.Random(fmt)
    whole = encoded(fmt, (40, 30))
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            assert images.load({"bytes": bytes(data[: chance.choice([None, -5, len(data) // 2])])}).rgb().mode == "RGB"
        except DataError as error:
            assert "(inline bytes)" in str(error)


def test_blank_is_black() -> None:
    assert images.blank((3, 2)).rgb().getcolors() == [(6, (0, 0, 0))]


def late_exif(png: bytes, orientation: int) -> bytes:
    """The PNG with its EXIF chunk behind the pixels, where the format also allows it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = exif.tobytes().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    return png[:-12] + chunk + png[-12:]


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "late PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_decoded_image(fmt: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if fmt in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    data = late_exif(encoded(), orientation) if fmt == "late PNG" else encoded(fmt, **options)
    assert images.size_of({"bytes": data}) == images.load({"bytes": data}).rgb().size
    turned = orientation > 4 and fmt not in ("GIF", "BMP", "PPM")
    assert images.size_of({"bytes": data}) == ((10, 20) if turned else (20, 10))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_the_size_is_read_from_the_header_alone(fmt: str, tmp_path: Path) -> None:
    noise = Image.effect_noise((300, 200), 80).convert("RGB")
    noise.save(tmp_path / "whole", fmt)
    (tmp_path / "torn").write_bytes((tmp_path / "whole").read_bytes()[:2000])
    assert images.size_of({"path": "torn"}, tmp_path) == (300, 200)
    with pytest.raises(DataError, match="broken"):
        images.load({"path": "torn"}, tmp_path)


def test_what_has_no_size_is_refused_as_by_load(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "bomb.png").write_bytes(bomb())
    for name in ("empty.png", "text.png", "bomb.png", "gone.png", "."):
        said = []
        for read in (images.load, images.size_of):
            with pytest.raises((DataError, MissingInputError)) as refused:
                read({"path": name}, tmp_path)
            said.append((refused.type, str(refused.value)))
        assert said[0] == said[1]
