"""The base model's conversations: what share is what, and that the answers in them are right."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mmkit.records import check, parts_text
from mmkit.testing.planted import base_conversations, drawn, vocabulary

SCENES = [scene for kind in drawn.KINDS for scene in drawn.scenes(kind, 40)]
WORDS = vocabulary(SCENES)


def said(row: dict[str, Any]) -> tuple[str, str]:
    user, assistant = row["messages"]
    return parts_text(user), parts_text(assistant)


def test_a_row_depends_on_seed_and_index_only() -> None:
    few, many = (list(base_conversations(SCENES, WORDS, count, seed=5)) for count in (20, 50))
    assert few == many[:20]
    assert few != list(base_conversations(SCENES, WORDS, 20, seed=6))


def test_shares_are_as_stated() -> None:
    kinds = Counter(row["task"] for row in base_conversations(SCENES, WORDS, 4000))
    for kind, share in {"repeat": 0.4, "caption": 0.15, "read": 0.2, "answer": 0.25}.items():
        assert abs(kinds[kind] / 4000 - share) < 0.03


def test_every_row_can_be_trained_on_and_tells_the_truth() -> None:
    by_image = {scene.image["path"]: scene for scene in SCENES}
    for row in base_conversations(SCENES, WORDS, 500):
        check(row)
        request, response = said(row)
        if row["task"] == "repeat":
            assert not row["images"]
            assert request == f"Repeat the words.\n{response}"
            assert set(response.split()) <= set(WORDS)
            continue
        scene = by_image[row["images"][0]["path"]]
        answers = {question.question: question.answer for question in scene.questions}
        if row["task"] == "caption":
            assert response == scene.caption
        else:
            assert response == answers[request.splitlines()[-1]]
        assert (scene.caption in request) == (row["task"] == "read")
