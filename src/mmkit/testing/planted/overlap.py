"""Tasks that are known to share knowledge or not, and to be hard or not (after VisATB's contribution and difficulty).

A picture has a page, a band along its foot and a thing on it, each with a colour of its own. What is asked:

| task | kind | the answer |
|---|---|---|
| caption | containing | names page and band: all that page and band ask, in an answer three times as long |
| page | contained | names the page |
| band | contained | names the band |
| table | useless | looks a word up in a table of twelve; the picture is noise |
| colour | hard | names the thing's colour, one of eight, which no other task names |

Only the caption holds what others ask. Nobody tells the table anything, nor the table anybody. The colour takes more
rows than page and band do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from mmkit import seeds
from mmkit.records import message
from mmkit.testing.planted.drawn import NOUNS, SHAPES, paint_shape
from mmkit.testing.planted.interaction import THINGS as COLOURS
from mmkit.testing.planted.scene import SIDE, Question, Scene

if TYPE_CHECKING:
    from PIL.Image import Image

PAGES = {"pink": (255, 170, 200), "mint": (170, 255, 200), "cream": (250, 240, 190), "navy": (20, 20, 90)}
BANDS = {"amber": (230, 180, 20), "plum": (150, 30, 120), "teal": (10, 130, 130), "rust": (180, 70, 20)}
WAYS = ("north", "south", "east", "west", "up", "down")
TABLE = {
    "lamp": "south",
    "rope": "up",
    "salt": "east",
    "wind": "down",
    "milk": "north",
    "sand": "west",
    "coal": "up",
    "iron": "north",
    "wool": "west",
    "corn": "down",
    "silk": "south",
    "clay": "east",
}
"""Each of WAYS twice, so that a guess is right one time in six."""
GREYS = {"dark": (0, 60), "mid": (100, 150), "light": (190, 255)}
"""The brightness of a lesson's page and thing, from and to."""
BAND_HEIGHT = 9
_SMALLEST, _LARGEST, _MARGIN = 11, 16, 2


@dataclass(frozen=True, slots=True)
class _Plan:
    kind: str
    question: str
    answer: str


_PLANS = {
    "caption": _Plan(
        "containing", "describe the picture.", "this picture shows a thing on a {page} page over a {band} band."
    ),
    "page": _Plan("contained", "which page is it?", "the page is {page}."),
    "band": _Plan("contained", "which band is it?", "the band is {band}."),
    "table": _Plan("useless", "which way goes {word}?", "it goes {way}."),
    "colour": _Plan("hard", "what colour is the thing?", "the colour is {colour}."),
}
TASKS = tuple(_PLANS)


def scenes(task: str, count: int, seed: int = 0) -> Iterator[tuple[Scene, dict[str, Any]]]:
    """The first `count` (scene, record) pairs of one of `TASKS`.

    A record has `images`, `question`, `answer` (a sentence) and, under `truth`, `kind` and the facts of the picture or
    of the table. Row i depends on (seed, task, i) only, so that consecutive stretches are disjoint sets.
    """
    plan = _PLANS[task]
    for index in range(count):
        row_id = f"{task}-{index:05d}"
        rng = seeds.generator(seed, row_id, "planted.overlap")
        picture, facts = _noise(rng) if task == "table" else _picture(rng)
        question, answer = plan.question.format(**facts), plan.answer.format(**facts)
        scene = Scene(row_id, picture, answer, (Question(task, question, answer, answer),), facts)
        record = {
            "id": row_id,
            "task": task,
            "images": [scene.image],
            "question": question,
            "answer": answer,
            "truth": {"kind": plan.kind, **facts},
        }
        yield scene, record


def lessons(count: int, seed: int = 0) -> Iterator[tuple[Scene, dict[str, Any]]]:
    """`count` (scene, record) pairs with `messages` that make a base model of a random one: it looks and it copies.

    Grey things on grey pages: how light the one or the other is, or both with a word to be said again. No lesson names
    a page, a band or a colour, or tells a line of the table.
    """
    words = [*NOUNS, *TABLE]
    for index in range(count):
        row_id = f"lesson-{index:05d}"
        rng = seeds.generator(seed, row_id, "planted.overlap")
        page, thing = rng.sample(list(GREYS), 2)
        picture = _drawn(rng, _grey(page, rng), _grey(thing, rng))
        word = rng.choice(words)
        asked, answer = rng.choice(
            [
                ("how light is it all?", f"the light is {page}."),
                ("how light is the middle?", f"the middle is {thing}."),
                (f"tell all and say {word}.", f"a {page} picture, a {thing} middle, a {word}."),
            ]
        )
        scene = Scene(row_id, picture, answer, (), {"page": page, "thing": thing})
        messages = [message("user", asked, 1), message("assistant", answer)]
        yield scene, {"id": row_id, "task": "lesson", "images": [scene.image], "messages": messages}


def _picture(rng: Random) -> tuple[Image, dict[str, str]]:
    """A thing on a page over a band, and what is to be known of it."""
    from PIL import ImageDraw

    page, band, colour = rng.choice(list(PAGES)), rng.choice(list(BANDS)), rng.choice(list(COLOURS))
    picture = _drawn(rng, PAGES[page], COLOURS[colour])
    ImageDraw.Draw(picture).rectangle([0, SIDE - BAND_HEIGHT, SIDE, SIDE], fill=BANDS[band])
    return picture, {"page": page, "band": band, "colour": colour}


def _drawn(rng: Random, page: tuple[int, int, int], thing: tuple[int, int, int]) -> Image:
    """A shape somewhere on a page."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE, SIDE), page)
    radius = rng.randint(_SMALLEST, _LARGEST)
    low, high = radius + _MARGIN, SIDE - radius - _MARGIN - 1
    paint_shape(
        ImageDraw.Draw(picture), rng.choice(SHAPES), rng.randint(low, high), rng.randint(low, high), radius, thing
    )
    return picture


def _noise(rng: Random) -> tuple[Image, dict[str, str]]:
    """A picture that tells nothing, and a line of the table."""
    from PIL import Image

    word = rng.choice(list(TABLE))
    return Image.frombytes("RGB", (SIDE, SIDE), rng.randbytes(3 * SIDE * SIDE)), {"word": word, "way": TABLE[word]}


def _grey(name: str, rng: Random) -> tuple[int, int, int]:
    level = rng.randint(*GREYS[name])
    return level, level, level
