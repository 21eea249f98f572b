"""Files that belong together under a name: `[NAME=]FILE[,FILE…]`."""

from __future__ import annotations

from pathlib import Path

from mmkit.errors import UsageError
from mmkit.streams.sources import STDIN


def parse(spec: str) -> tuple[str, list[str]]:
    """The name and the files; without NAME the file's stem is the name.

    A text that is the path of a file is that file, whatever signs are in it. "-" is stdin. Raises UsageError for
    another form and for several files without a name.
    """
    if Path(spec).exists():
        return _stem(spec), [spec]
    name, equals, files = spec.partition("=")
    paths = (files if equals else spec).split(",")
    if not all(paths) or (equals and not name):
        raise UsageError(f"{spec}: expected FILE or NAME=FILE,FILE")
    if equals:
        return name, paths
    if len(paths) > 1:
        raise UsageError(f"{spec}: several files need a name: NAME={spec}")
    return _stem(spec), paths


def _stem(path: str) -> str:
    if path == STDIN:
        return "stdin"
    name = Path(path)
    return (name.with_suffix("") if name.suffix in (".gz", ".zst") else name).stem
