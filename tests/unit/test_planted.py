"""Planted data: what is planted is really there, and the same seed gives the same rows and pictures."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import orjson
import pytest

from mmkit.records import check
from mmkit.testing.planted import SIDE, Scene, digits, drawn, interaction, write, write_pictures
from mmkit.testing.planted.digits import SCAN_SIDE, drawn_place
from mmkit.testing.planted.scene import PLACES, place


def drawn_scenes(count: int, seed: int = 0) -> list[Scene]:
    return [scene for kind in drawn.KINDS for scene in drawn.scenes(kind, count, seed)]


def fingerprint(scenes: list[Scene]) -> list[tuple[str, str, bytes]]:
    return [(scene.id, scene.caption, scene.picture.tobytes()) for scene in scenes]


@pytest.mark.parametrize("kind", drawn.KINDS)
def test_a_scene_depends_on_seed_and_index_only(kind: str) -> None:
    ten, twenty = list(drawn.scenes(kind, 10, seed=3)), list(drawn.scenes(kind, 20, seed=3))
    assert fingerprint(ten) == fingerprint(twenty[:10])
    assert fingerprint(ten) != fingerprint(list(drawn.scenes(kind, 10, seed=4)))


def test_every_picture_has_the_stated_size() -> None:
    train, test = digits(5, 5)
    others = [scene for task in interaction.TASKS for scene, _ in interaction.scenes(task, 2)]
    for scene in [*drawn_scenes(5), *train, *test, *others]:
        assert scene.picture.size == (SIDE, SIDE) == (48, 48)
        assert scene.picture.mode == "RGB"


def test_every_answer_stands_in_caption_and_rationale() -> None:
    train, _ = digits(100, 0)
    for scene in [*drawn_scenes(100), *train]:
        for question in scene.questions:
            whole_word = rf"\b{re.escape(question.answer)}\b"
            assert re.search(whole_word, scene.caption)
            assert re.search(whole_word, question.rationale)


def test_the_question_never_depends_on_the_answer() -> None:
    train, _ = digits(100, 0)
    asked: dict[str, set[str]] = defaultdict(set)
    for scene in [*drawn_scenes(100), *train]:
        for question in scene.questions:
            asked[question.kind].add(question.question)
    assert all(len(wordings) == 1 for wordings in asked.values())


def test_records_are_canonical() -> None:
    train, _ = digits(3, 0)
    for scene in [*drawn_scenes(3), *train]:
        for record in [scene.caption_record(), *scene.seed_records(), *scene.test_records()]:
            check(record)
    for task in interaction.TASKS:
        for _, record in interaction.scenes(task, 3):
            check(record)


def test_a_test_record_tells_neither_caption_nor_rationale() -> None:
    _, test = digits(0, 1)
    assert [set(record) for record in test[0].test_records()] == [{"id", "task", "images", "question", "answer"}] * 4


def test_the_target_domain_is_not_in_the_seeds() -> None:
    text = " ".join(scene.caption + str(scene.questions) for scene in drawn_scenes(300))
    assert "handwritten" not in text
    assert "strokes" not in text
    assert all(re.search(rf"\b{number}\b", text) for number in drawn.NUMBERS)


def test_digit_splits_share_no_scan_and_cover_every_class() -> None:
    train, test = digits(1000, 300, seed=1)
    assert not {scene.id for scene in train} & {scene.id for scene in test}
    assert {scene.truth["word"] for scene in test} == set(drawn.NUMBERS)
    larger, _ = digits(1200, 0, seed=1)
    assert [scene.id for scene in larger[:1000]] == [scene.id for scene in train]
    assert [scene.id for scene in digits(1000, 0, seed=2)[0]] != [scene.id for scene in train]


def test_digit_labels_are_balanced_by_their_cuts() -> None:
    scenes, _ = digits(1797, 0)
    widths = Counter(scene.truth["thickness"] for scene in scenes)
    slants = Counter(scene.truth["slant"] for scene in scenes)
    assert abs(widths["thin"] - widths["thick"]) <= 3
    assert max(slants.values()) - min(slants.values()) <= 3


def test_thick_digits_have_fuller_cells_and_slants_lean_as_named() -> None:
    """Measured on the 48×48 pictures, which the labels were not computed from."""
    import numpy as np

    scenes, _ = digits(600, 0)
    leaning: dict[str, list[float]] = defaultdict(list)
    fullness: dict[str, list[float]] = defaultdict(list)
    y, x = np.mgrid[:SIDE, :SIDE]
    for scene in scenes:
        ink = np.asarray(scene.picture.convert("L")) / 255
        dx, dy = x - (ink * x).sum() / ink.sum(), y - (ink * y).sum() / ink.sum()
        leaning[scene.truth["slant"]].append(-float((ink * dx * dy).sum() / (ink * dy * dy).sum()))
        fullness[scene.truth["thickness"]].append(float(ink[ink > 0.1].mean()))
    assert np.median(leaning["left"]) < np.median(leaning["upright"]) < np.median(leaning["right"])
    assert np.median(fullness["thin"]) < np.median(fullness["thick"])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_place_read_from_every_digits_pixels_is_the_one_it_was_pasted_at(seed: int) -> None:
    scenes, _ = digits(1797, 0, seed)
    for scene in scenes:
        where = drawn_place(int(scene.id.removeprefix("digit-")), seed)
        assert scene.truth["place"] == where
        assert scene.caption.endswith(f"at the {where}")
        margin = (0, SCAN_SIDE, SIDE, SIDE) if where == "top" else (0, 0, SIDE, SIDE - SCAN_SIDE)
        assert scene.picture.crop(margin).getbbox() is None, "the rest of the page is black"


def test_a_digits_place_says_nothing_else_and_is_drawn_by_seed_and_scan() -> None:
    scenes, _ = digits(1797, 0)
    for fact in ("word", "thickness", "slant"):
        for value in {scene.truth[fact] for scene in scenes}:
            places = Counter(scene.truth["place"] for scene in scenes if scene.truth[fact] == value)
            assert abs(places["top"] / places.total() - 0.5) < 0.12, value
    again = {scene.id: scene.truth["place"] for scene in digits(0, 300)[1]}
    assert again.items() <= {scene.id: scene.truth["place"] for scene in scenes}.items()
    other = {scene.id: scene.truth["place"] for scene in digits(1797, 0, seed=1)[0]}
    assert 0.4 < sum(other[scene.id] == scene.truth["place"] for scene in scenes) / 1797 < 0.6


@pytest.mark.parametrize(("row", "where"), [(0, "top"), (19, "top"), (20, "bottom"), (40, "bottom")])
def test_place_is_the_half_that_the_ink_lies_in(row: int, where: str) -> None:
    from PIL import Image

    picture = Image.new("RGB", (SIDE, SIDE), (30, 30, 30))
    picture.paste((90, 30, 30), (5, row, 25, row + 8))
    picture.putpixel((0, 47), (90, 30, 30))  # a speck moves the centre a little, not the place
    assert place(picture) == where


def test_drawn_scenes_say_where_their_ink_is() -> None:
    from PIL import ImageOps

    for kind in ("shape", "line", "sign"):
        scenes = list(drawn.scenes(kind, 200))
        assert 70 < Counter(scene.truth["place"] for scene in scenes)["top"] < 130
        for scene in scenes:
            assert scene.caption.endswith(f"at the {scene.truth['place']}")
            upside_down = place(ImageOps.flip(scene.picture))
            assert {scene.truth["place"], upside_down} == set(PLACES)
            ink = scene.picture.point(lambda level: 255 if level > 40 else 0).getbbox()
            assert ink is not None
            if kind != "shape":
                assert (ink[1] < SIDE - ink[3]) == (scene.truth["place"] == "top")


def test_too_many_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="1797"):
        digits(1700, 98)


def answers_given(rows: list[dict[str, object]], *facts: str) -> dict[tuple[object, ...], Counter[object]]:
    """How the answers are distributed for each combination of the named facts (or of `context`)."""
    found: dict[tuple[object, ...], Counter[object]] = defaultdict(Counter)
    for row in rows:
        truth = row["truth"]
        assert isinstance(truth, dict)
        found[tuple(row["context"] if fact == "context" else truth[fact] for fact in facts)][row["answer"]] += 1
    return found


def planted_rows(task: str) -> list[dict[str, object]]:
    return [row for _, row in interaction.scenes(task, 20 * interaction.period(task))]


@pytest.mark.parametrize(("task", "fact"), [("synergy-latin", "page"), ("synergy-xor", "colour")])
def test_synergy_is_told_by_both_and_by_neither_alone(task: str, fact: str) -> None:
    rows = planted_rows(task)
    for alone in (answers_given(rows, fact), answers_given(rows, "context")):
        for counts in alone.values():
            assert len(set(counts.values())) == 1, "uniform, whatever one modality says"
            assert len(counts) == len(rows[0]["choices"])  # type: ignore[arg-type]
    assert all(len(counts) == 1 for counts in answers_given(rows, fact, "context").values())


@pytest.mark.parametrize(("task", "fact"), [("redundant-colour", "colour"), ("redundant-page", "page")])
def test_redundancy_is_told_by_either(task: str, fact: str) -> None:
    rows = planted_rows(task)
    assert all(len(counts) == 1 for counts in answers_given(rows, fact).values())
    assert all(len(counts) == 1 for counts in answers_given(rows, "context").values())


def test_uniqueness_is_told_by_one() -> None:
    seen = planted_rows("unique-image")
    assert all(len(counts) == 1 for counts in answers_given(seen, "colour").values())
    assert not any(str(row["answer"]) in str(row["context"]) for row in seen)
    read = planted_rows("unique-text")
    assert all(len(counts) == 1 for counts in answers_given(read, "context").values())
    for counts in answers_given(read, "page").values():
        assert set(counts) == set(interaction.ANIMALS)
        assert len(set(counts.values())) == 1


def test_interaction_pictures_show_their_facts() -> None:
    for task in interaction.TASKS:
        for scene, record in interaction.scenes(task, 16):
            truth = record["truth"]
            colours = {colour for _, colour in scene.picture.getcolors()}
            assert colours == {interaction.PAGES[truth["page"]], interaction.THINGS[truth["colour"]]}


def test_written_records_find_their_pictures(tmp_path: Path) -> None:
    scenes = drawn_scenes(2)
    write_pictures(scenes, tmp_path)
    path = write((record for scene in scenes for record in scene.seed_records()), tmp_path / "seeds.jsonl")
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert len(rows) == 2 * (4 + 3 + 2 + 4)
    assert all((tmp_path / image["path"]).is_file() for row in rows for image in row["images"])
