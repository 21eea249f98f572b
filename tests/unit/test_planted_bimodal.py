"""Notes and pictures of one small world: answers are right, held-out sets ask what training does not."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from mmkit.records import check
from mmkit.tasks.prompts import answer_type
from mmkit.testing.planted import bimodal
from mmkit.testing.planted.bimodal import HELD_OUT, TRAINING, TaskSet
from mmkit.testing.planted.interaction import THINGS as COLOURS
from mmkit.testing.planted.interaction import WARM
from mmkit.testing.planted.scene import SIDE, place

SETS = (*TRAINING, *HELD_OUT)
Facts = dict[str, str]
FORMS = (
    r"a {size} {colour} {thing} at the {place}\.",
    r"at the {place} there is a {size} {colour} {thing}\.",
    r"the {thing} is {colour} and {size} and at the {place}\.",
)
SLOTS = {name: rf"(?P<{name}>\w+)" for name in ("size", "colour", "thing", "place")}
OPPOSITE = {"top": "bottom", "bottom": "top"}


def read(note: str) -> Facts:
    """The facts of a note, by somebody who knows the forms only."""
    return next(match for form in FORMS if (match := re.fullmatch(form.format(**SLOTS), note))).groupdict()


def right_answer(question: str, facts: Facts) -> str:
    """By the question's words and the facts."""
    return {
        "what colour is it?": facts["colour"],
        "which thing is it?": facts["thing"],
        "does it have a warm colour?": "yes" if facts["colour"] in WARM else "no",
        "where is it not?": OPPOSITE[facts["place"]],
        "which of these is it?": f"{facts['size']} {facts['thing']}",
    }[question]


@pytest.mark.parametrize("task_set", SETS, ids=lambda task_set: task_set.name)
def test_every_answer_follows_from_what_the_model_is_shown(task_set: TaskSet) -> None:
    answers = Counter[str]()
    for record, scene in bimodal.tasks(task_set, 200):
        check(record)
        assert (scene is not None) == ("images" in record) == (task_set.modality == "vision")
        assert record["answer"] == right_answer(record["question"], scene.truth if scene else read(record["context"]))
        assert (answer_type(record) == "choice") == ("choices" in record)
        if choices := record.get("choices"):
            assert len(set(choices)) == 4 and record["answer"] in choices
        answers[record["answer"]] += 1
    num_answers = {"yes-no": 2, "short": 2}.get(record["answer_type"], 4)
    assert answers.most_common(1)[0][1] <= 1.2 * 200 / num_answers


@pytest.mark.parametrize("task_set", [s for s in SETS if s.modality == "vision"], ids=lambda task_set: task_set.name)
def test_a_picture_shows_the_world_and_its_caption_tells_it(task_set: TaskSet) -> None:
    for _, scene in bimodal.tasks(task_set, 50):
        assert scene is not None
        assert read(scene.caption) == scene.truth
        assert place(scene.picture) == scene.truth["place"]
        colours = Counter(scene.picture.getpixel((x, y)) for x in range(SIDE) for y in range(SIDE))
        (_, _), (ink, _) = colours.most_common()
        assert ink == COLOURS[scene.truth["colour"]]
        high, low = scene.picture.convert("L").point(lambda grey: 255 * (grey > 30)).getbbox()[1::2]
        assert low - high == 2 * bimodal.SIZES[scene.truth["size"]] + 1


def test_a_held_out_note_names_what_no_training_note_names() -> None:
    def things(sets: tuple[TaskSet, ...]) -> set[str]:
        notes = (record["context"] for s in sets if s.modality == "language" for record, _ in bimodal.tasks(s, 200))
        return {read(note)["thing"] for note in notes}

    assert len(things(TRAINING)) == 14 and len(things(HELD_OUT)) == 10
    assert not things(TRAINING) & things(HELD_OUT)


def test_two_held_out_sets_are_asked_in_training_of_notes_alone() -> None:
    asked = {modality: {s.asked for s in TRAINING if s.modality == modality} for modality in ("language", "vision")}
    assert asked["vision"] < asked["language"]
    for modality in ("language", "vision"):
        held_out = {s.asked for s in HELD_OUT if s.modality == modality}
        assert held_out & asked["vision"] == asked["vision"]
        assert held_out - asked["vision"] == {"warm", "not-place"} < asked["language"]
    assert len({s.name for s in SETS}) == len(SETS) == 15


def test_rows_depend_on_seed_set_and_index_only() -> None:
    few, many, other = (
        [record for record, _ in bimodal.tasks(TRAINING[0], count, seed)] for count, seed in ((5, 1), (9, 1), (5, 2))
    )
    assert few == many[:5]
    assert few != other


def test_a_lesson_is_no_instruction_and_tells_the_truth() -> None:
    kinds = Counter[str]()
    for record, scene in bimodal.lessons(2000):
        check(record)
        kinds[record["task"]] += 1
        asked, answered = (turn["content"][-1]["text"] for turn in record["messages"])
        assert (scene is not None) == (record["task"] == "caption")
        if scene is not None:
            assert answered == scene.caption
            continue
        assert "?" not in asked and answered not in ("yes", "no")
        if record["task"] == "retell":
            facts = read(asked)
            warm = "warm" if facts["colour"] in WARM else "cool"
            told = {re.sub(r"^it is (an? |at the )?", "", said) for said in answered.rstrip(".").split(". ")}
            assert told == {*facts.values(), f"{facts['colour']} is {warm}"}
    for kind, share in {"repeat": 0.3, "retell": 0.3, "caption": 0.4}.items():
        assert abs(kinds[kind] / 2000 - share) < 0.04


def test_captioned_pictures_show_what_their_captions_say() -> None:
    captions = list(bimodal.captioned(50, seed=3))
    assert all(read(scene.caption) == scene.truth for scene in captions)
    assert len({scene.id for scene in captions}) == 50
