"""What every planted generator yields, and how it gets onto the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 48
"""Width and height of every planted picture, in pixels."""


PLACES = ("top", "bottom")


def place(picture: Image) -> str:
    """Which of `PLACES` the ink is at: the half of the picture that its centre of mass lies in.

    Ink is what is brighter than the darkest pixel, weighted by how much brighter it is; the middle itself is "bottom".
    """
    import numpy as np

    grey = np.asarray(picture.convert("L"), dtype=float)
    rows = (grey - grey.min()).sum(1)
    centre = (rows * (np.arange(len(rows)) + 0.5)).sum() / rows.sum()
    return PLACES[int(centre >= len(rows) / 2)]


@dataclass(frozen=True, slots=True)
class Question:
    """One task on a picture: what is asked, the precise answer, and a sentence that contains that answer."""

    kind: str
    question: str
    answer: str
    rationale: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture (48×48 RGB) of which everything is known: caption, questions, and the facts behind both."""

    id: str
    picture: Image
    caption: str
    questions: tuple[Question, ...]
    truth: dict[str, str] = field(default_factory=dict)

    @property
    def image(self) -> dict[str, str]:
        """The reference that records hold; `write_pictures` puts the file there."""
        return {"path": f"img/{self.id}.png"}

    def caption_record(self) -> dict[str, Any]:
        """`id`, `images` and `caption`: what an image-caption collection offers."""
        return {"id": self.id, "images": [self.image], "caption": self.caption}

    def seed_records(self) -> list[dict[str, Any]]:
        """One complete task a question: caption, question, answer and rationale, with the facts under `truth`."""
        return [
            {
                "id": f"{self.id}-{question.kind}",
                "task": question.kind,
                "images": [self.image],
                "caption": self.caption,
                "question": question.question,
                "answer": question.answer,
                "rationale": question.rationale,
                "truth": dict(self.truth),
            }
            for question in self.questions
        ]

    def test_records(self) -> list[dict[str, Any]]:
        """One question a row, to be answered from the picture alone: no caption and no rationale."""
        return [
            {
                "id": f"{self.id}-{question.kind}",
                "task": question.kind,
                "images": [self.image],
                "question": question.question,
                "answer": question.answer,
            }
            for question in self.questions
        ]


def write(records: Iterable[dict[str, Any]], path: str | Path) -> Path:
    """Write records as JSON lines, making the folder; returns the path."""
    import orjson

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


def write_pictures(scenes: Iterable[Scene], directory: str | Path) -> None:
    """Write each scene's picture as a PNG where its records look for it, relative to `directory`."""
    root = Path(directory)
    (root / "img").mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        scene.picture.save(root / scene.image["path"])
