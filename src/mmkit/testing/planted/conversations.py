"""Conversations that turn a randomly initialised tiny model into a base model: one that copies, captions and answers.

Copying has to be learned before a synthesizer can write about a caption whose words it has seen in no task; hence the
large share of "repeat the words".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmkit import seeds
from mmkit.records import message
from mmkit.tasks.prompts import CAPTION_HINT, PRECISE_HINT, templates
from mmkit.testing.planted.scene import Question, Scene

REPEAT = "Repeat the words."
_SHARES = {"repeat": 0.4, "caption": 0.15, "read": 0.2, "answer": 0.25}


def vocabulary(scenes: Iterable[Scene]) -> list[str]:
    """The words of captions, questions, answers and rationales, sorted."""
    texts = (
        text
        for scene in scenes
        for text in (
            scene.caption,
            *(part for q in scene.questions for part in (q.question, q.answer, q.rationale)),
        )
    )
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text)})


def base_conversations(
    scenes: Sequence[Scene], words: Sequence[str], count: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """`count` records with `messages`. Row i depends on (seed, i), the scenes and the words only.

    40 % repeat 6 to 14 random `words` (text alone), 15 % caption a picture, 20 % read an answer off a caption, 25 %
    answer a question from the picture.
    """
    for index in range(count):
        yield _conversation(f"base-{index:05d}", scenes, words, seed)


def _conversation(row_id: str, scenes: Sequence[Scene], words: Sequence[str], seed: int) -> dict[str, Any]:
    rng = seeds.generator(seed, row_id, "planted.base")
    kind = rng.choices(list(_SHARES), weights=list(_SHARES.values()))[0]
    if kind == "repeat":
        text = " ".join(rng.choices(words, k=rng.randint(6, 14)))
        return _record(row_id, kind, None, f"{REPEAT}\n{text}", text)
    scene = rng.choice(scenes)
    asked: Question = rng.choice(scene.questions)
    if kind == "caption":
        return _record(row_id, kind, scene, rng.choice([CAPTION_HINT, *templates("describe")]), scene.caption)
    if kind == "read":
        request = "\n".join([CAPTION_HINT, scene.caption, PRECISE_HINT, asked.question])
        return _record(row_id, kind, scene, request, asked.answer)
    return _record(row_id, kind, scene, asked.question, asked.answer)


def _record(row_id: str, kind: str, scene: Scene | None, request: str, response: str) -> dict[str, Any]:
    images = [] if scene is None else [scene.image]
    return {
        "id": row_id,
        "task": kind,
        "images": images,
        "messages": [message("user", request, len(images)), message("assistant", response)],
    }
