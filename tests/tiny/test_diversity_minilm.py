"""Diversity with the real all-MiniLM-L6-v2: questions of one topic are more alike than those of two."""

from __future__ import annotations

import pytest

from mmkit.data.stats.diversity import Questions, differences, similarities
from mmkit.tasks import embedding

pytestmark = pytest.mark.tiny

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
YEARS = range(1900, 1960, 10)
TOPICS = {
    "vision": [f"What is next to the {colour} {thing}?" for colour in COLOURS for thing in ("car", "dog", "chair")],
    "language": [f"Which {what} ended in {year}?" for year in YEARS for what in ("war", "reign", "treaty")],
}


@pytest.mark.usefixtures("minilm")
def test_a_topic_is_more_alike_than_two() -> None:
    questions = Questions(400, seed=0)
    for name, texts in TOPICS.items():
        for number, text in enumerate(texts):
            questions.add(name, str(number), text)
    language, between, vision = similarities(questions.sample(), 400, 0, embedding.embed)
    assert language.mean > 0.4 > 0.2 > between.mean
    assert vision.mean > 0.4
    against_language = differences([language, between, vision])[0]
    assert against_language.z > 10 and against_language.p < 1e-3
