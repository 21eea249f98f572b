"""Question answering and reasoning in both modalities (after MLAN): one small world, told in a note or drawn.

A world is a thing of a size and a colour at the top or at the bottom of a page. The context of a language task is a
note that tells the world; a vision task has a picture of it and nothing else. What is asked:

| asked | family | answer | example |
|---|---|---|---|
| colour | question answering | short | what colour is it? |
| thing | question answering | choice of four | which thing is it? |
| warm | reasoning | yes-no | does it have a warm colour? |
| not-place | reasoning | short | where is it not? |
| size-and-thing | reasoning | choice of four | which of these is it? small circle, large circle, … |

Reasoning takes two of the world's facts together, an opposite, or what is known of colours and stands in no note (which
ones are warm). Pictures are of shapes. Notes for training are about shapes and ten other things, held-out ones about
ten things that no other note names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from mmkit import seeds
from mmkit.records import message
from mmkit.tasks.prompts import templates
from mmkit.testing.planted.drawn import NOUNS, SHAPES, paint_shape
from mmkit.testing.planted.interaction import THINGS as COLOURS
from mmkit.testing.planted.interaction import WARM
from mmkit.testing.planted.scene import PLACES, SIDE, Question, Scene

SIZES = {"small": 8, "large": 14}
"""The radius of a drawing, in pixels."""
NUM_CHOICES = 4
_SEEN, _UNSEEN = NOUNS[:10], NOUNS[10:]
_MARGIN = 2
_LESSONS = {"repeat": 0.3, "retell": 0.3, "caption": 0.4}


@dataclass(frozen=True, slots=True)
class TaskSet:
    """A data set: what is asked in which modality, and whether it is for training or held out."""

    asked: str
    modality: Literal["language", "vision"]
    held_out: bool

    @property
    def name(self) -> str:
        """Such as note-colour or, held out, new-picture-warm."""
        return f"{'new-' * self.held_out}{'note' if self.modality == 'language' else 'picture'}-{self.asked}"

    @property
    def family(self) -> str:
        """question-answering or reasoning."""
        return _FAMILIES[self.asked]


@dataclass(frozen=True, slots=True)
class World:
    """A thing and its facts."""

    size: str
    colour: str
    thing: str
    place: str

    def told(self, rng: Random) -> str:
        """The world in one of three forms of words."""
        whole = f"a {self.size} {self.colour} {self.thing}"
        return rng.choice(
            [
                f"{whole} at the {self.place}.",
                f"at the {self.place} there is {whole}.",
                f"the {self.thing} is {self.colour} and {self.size} and at the {self.place}.",
            ]
        )

    def scene(self, scene_id: str, rng: Random) -> Scene:
        """The world drawn; its thing has to be one of SHAPES."""
        from PIL import Image, ImageDraw

        picture = Image.new("RGB", (SIDE, SIDE), (rng.randint(0, 30),) * 3)
        radius = SIZES[self.size]
        edge = radius + _MARGIN
        x, y = rng.randint(edge, SIDE - edge - 1), edge + rng.randint(0, _MARGIN)
        if self.place == "bottom":
            y = SIDE - 1 - y
        paint_shape(ImageDraw.Draw(picture), self.thing, x, y, radius, COLOURS[self.colour])
        truth = {"size": self.size, "colour": self.colour, "thing": self.thing, "place": self.place}
        return Scene(scene_id, picture, self.told(rng), (), truth)


_FAMILIES = {
    **dict.fromkeys(("colour", "thing"), "question-answering"),
    **dict.fromkeys(("warm", "not-place", "size-and-thing"), "reasoning"),
}
TRAINING = (
    *(TaskSet(asked, "language", False) for asked in ("colour", "thing", "warm", "not-place", "size-and-thing")),
    *(TaskSet(asked, "vision", False) for asked in ("colour", "size-and-thing")),
)
"""Five sets of language and two of vision, as many as the paper's; no picture is asked for yes or no."""
HELD_OUT = tuple(
    TaskSet(asked, modality, True)
    for modality in ("language", "vision")
    for asked in ("colour", "size-and-thing", "warm", "not-place")
)
"""Four sets in either modality: two that training asks in both modalities, two that it asks of notes alone."""


def tasks(task_set: TaskSet, count: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], Scene | None]]:
    """The first `count` records of a set, each with its scene where it is of vision.

    A record has `task` (the set's name), `family`, `question`, `answer`, `answer_type`, `choices` where there are any,
    and `context` or `images`. Row i depends on (seed, set, i) only.
    """
    others = _UNSEEN if task_set.held_out else SHAPES + _SEEN
    things = SHAPES if task_set.modality == "vision" else others
    for index in range(count):
        row_id = f"{task_set.name}-{index:05d}"
        rng = seeds.generator(seed, row_id, "planted.bimodal")
        world = _world(things, rng)
        question, choices = _question(task_set.asked, world, things, rng)
        record: dict[str, Any] = {"id": row_id, "task": task_set.name, "family": task_set.family}
        scene = world.scene(row_id, rng) if task_set.modality == "vision" else None
        record |= {"context": world.told(rng)} if scene is None else {"images": [scene.image]}
        record |= {"question": question.question, "answer": question.answer, "answer_type": question.kind}
        yield record | ({"choices": choices} if choices else {}), scene


def captioned(count: int, seed: int = 0) -> Iterator[Scene]:
    """Pictures with a caption in one of a note's forms, and no question."""
    for index in range(count):
        scene_id = f"captioned-{index:05d}"
        rng = seeds.generator(seed, scene_id, "planted.bimodal")
        yield _world(SHAPES, rng).scene(scene_id, rng)


def lessons(count: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], Scene | None]]:
    """`count` records with `messages` that make a base model of a random one: it knows words, notes and pictures.

    30 % repeat words, 30 % say a note's facts again one by one, with what kind of colour that is, 40 % caption a
    picture. Not one asks a question about a world, lists options, is answered by yes or no, or has a picture and
    anything but a request for its caption.
    """
    words = [*COLOURS, *SHAPES, *NOUNS, *SIZES, *PLACES, "warm", "cool"]
    for index in range(count):
        row_id = f"lesson-{index:05d}"
        rng = seeds.generator(seed, row_id, "planted.bimodal")
        kind = rng.choices(list(_LESSONS), weights=list(_LESSONS.values()))[0]
        if kind == "repeat":
            text = " ".join(rng.choices(words, k=rng.randint(6, 14)))
            yield _lesson(row_id, kind, f"Repeat the words.\n{text}", text), None
        elif kind == "retell":
            world = _world(SHAPES + NOUNS, rng)
            yield _lesson(row_id, kind, world.told(rng), _facts(world, rng)), None
        else:
            scene = _world(SHAPES, rng).scene(row_id, rng)
            yield _lesson(row_id, kind, rng.choice(templates("describe")), scene.caption, scene), scene


def _world(things: Sequence[str], rng: Random) -> World:
    return World(rng.choice(list(SIZES)), rng.choice(list(COLOURS)), rng.choice(things), rng.choice(PLACES))


def _question(asked: str, world: World, things: Sequence[str], rng: Random) -> tuple[Question, list[str]]:
    """The question, its answer type as `kind`, and its choices."""
    if asked == "colour":
        return _asked("short", "what colour is it?", world.colour), []
    if asked == "not-place":
        return _asked("short", "where is it not?", _other(world.place, PLACES, rng)), []
    if asked == "warm":
        return _asked("yes-no", "does it have a warm colour?", "yes" if world.colour in WARM else "no"), []
    if asked == "thing":
        others = rng.sample([thing for thing in things if thing != world.thing], NUM_CHOICES - 1)
        return _asked("choice", "which thing is it?", world.thing), rng.sample([world.thing, *others], NUM_CHOICES)
    named = (world.thing, _other(world.thing, things, rng))
    choices = [f"{size} {thing}" for size in SIZES for thing in named]
    answer = f"{world.size} {world.thing}"
    return _asked("choice", "which of these is it?", answer), rng.sample(choices, NUM_CHOICES)


def _asked(answer_type: str, question: str, answer: str) -> Question:
    return Question(answer_type, question, answer, f"the answer is {answer}.")


def _other(own: str, pool: Sequence[str], rng: Random) -> str:
    return rng.choice([text for text in pool if text != own])


def _facts(world: World, rng: Random) -> str:
    """One sentence a fact, in any order."""
    kind = "warm" if world.colour in WARM else "cool"
    article = "an" if world.thing[0] in "aeiou" else "a"
    facts = [
        f"it is {world.colour}.",
        f"{world.colour} is {kind}.",
        f"it is {world.size}.",
        f"it is at the {world.place}.",
        f"it is {article} {world.thing}.",
    ]
    return " ".join(rng.sample(facts, len(facts)))


def _lesson(row_id: str, kind: str, request: str, response: str, scene: Scene | None = None) -> dict[str, Any]:
    images = [] if scene is None else [scene.image]
    return {
        "id": row_id,
        "task": kind,
        "images": images,
        "messages": [message("user", request, len(images)), message("assistant", response)],
    }
