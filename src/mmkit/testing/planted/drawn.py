"""Drawn pictures whose content is known: shapes, lines, word cards and signs.

They are the general domain of the miniature AdaMLLM recipe. A sign's caption has the same skeleton as a digit's ("a
neon dog with thin curves slanting left at the top"), so that a synthesizer can learn which words of it a question is
about; neither "handwritten" nor "strokes" occurs in any of them, and no handwritten digit does. Where a shape, a line
or a sign is, top or bottom, is computed from the finished picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

from mmkit import seeds
from mmkit.testing.planted.scene import SIDE, Question, Scene, place

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOUNS = (
    "cat",
    "dog",
    "tree",
    "car",
    "house",
    "ball",
    "fish",
    "bird",
    "star",
    "sun",
    "moon",
    "cup",
    "hat",
    "key",
    "book",
    "boat",
    "door",
    "leaf",
    "lamp",
    "ring",
)
WORDS = NOUNS + NUMBERS
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 60, 230),
    "yellow": (240, 220, 30),
    "white": (255, 255, 255),
    "purple": (150, 40, 170),
    "orange": (250, 140, 20),
    "pink": (250, 150, 190),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 9, "large": 17}
WIDTHS = {"thin": 2, "thick": 7}
SLANTS = {"left": -0.36, "right": 0.36, "upright": 0.0}
"""How far a line's ends stand to the side of its middle, in its height."""
STYLES = ("printed", "painted", "neon", "wooden", "rusty", "new", "dark", "bright", "plain", "tall", "short", "golden")
PARTS = ("letters", "edges", "lines", "corners", "borders", "curves", "bars", "marks", "sides", "stripes")
KINDS = ("shape", "line", "card", "sign")


def scenes(kind: str, count: int, seed: int = 0) -> Iterator[Scene]:
    """The first `count` scenes of one of `KINDS`. Scene i depends on (seed, kind, i) only."""
    make = {"shape": _shape, "line": _line, "card": _card, "sign": _sign}[kind]
    for index in range(count):
        scene_id = f"{kind}-{index:05d}"
        yield make(scene_id, seeds.generator(seed, scene_id, "planted.drawn"))


def ask_word(word: str) -> Question:
    """Which word (on a card or a sign) or which digit's name: the question names neither."""
    return Question("word", "which word is shown?", word, f"the word shown is {word}.")


def ask_thickness(noun: str, width: str, part: str) -> Question:
    """Thin or thick."""
    return Question("thickness", "how thick is it?", width, f"the {noun} has {width} {part}.")


def ask_slant(noun: str, slant: str) -> Question:
    """Left, right or upright."""
    return Question("slant", "which way does it slant?", slant, f"the {noun} is slanting {slant}.")


def ask_place(noun: str, where: str) -> Question:
    """Top or bottom."""
    return Question("place", "where is it?", where, f"the {noun} is at the {where}.")


def paint_shape(draw: ImageDraw, shape: str, x: int, y: int, radius: int, fill: tuple[int, int, int]) -> None:
    """One filled shape of `SHAPES` around (x, y), in pixels."""
    box = [x - radius, y - radius, x + radius, y + radius]
    third = max(2, radius // 3)
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
    elif shape == "cross":
        draw.rectangle([x - radius, y - third, x + radius, y + third], fill=fill)
        draw.rectangle([x - third, y - radius, x + third, y + radius], fill=fill)
    else:
        raise ValueError(f"no such shape: {shape}")


def _page(rng: Random) -> tuple[Image, ImageDraw]:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE, SIDE), (rng.randint(0, 40),) * 3)
    return picture, ImageDraw.Draw(picture)


def _top(rng: Random) -> int:
    """First row of a drawing two thirds as high as the page, at its top or at its bottom."""
    return rng.choice([0, SIDE // 3])


def _paint_line(draw: ImageDraw, width: str, slant: str, rows: tuple[int, int], fill: tuple[int, int, int]) -> None:
    top, bottom = rows
    shift = round(SLANTS[slant] * (bottom - top))
    draw.line([SIDE // 2 - shift, bottom, SIDE // 2 + shift, top], fill=fill, width=WIDTHS[width])


def _paint_word(draw: ImageDraw, word: str, top: int, fill: tuple[int, int, int]) -> None:
    from PIL import ImageFont

    draw.text((4, top), word, fill=fill, font=ImageFont.load_default(size=12))


def _shape(scene_id: str, rng: Random) -> Scene:
    shape, colour, size = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(list(SIZES))
    radius = SIZES[size]
    picture, draw = _page(rng)
    low, high, middle = radius + 2, SIDE - radius - 2, SIDE // 2
    x, y = rng.randint(low, high), rng.choice([rng.randint(low, middle - 4), rng.randint(middle + 4, high)])
    paint_shape(draw, shape, x, y, radius, COLOURS[colour])
    where = place(picture)
    questions = (
        Question("shape", "which shape is shown?", shape, f"the shape shown is a {colour} {shape}."),
        Question("shape-colour", "what colour is the shape?", colour, f"the {shape} is {colour}."),
        Question("size", "how big is the shape?", size, f"the {shape} is {size}."),
        ask_place(shape, where),
    )
    truth = {"shape": shape, "colour": colour, "size": size, "place": where}
    return Scene(scene_id, picture, f"a {size} {colour} {shape} at the {where}", questions, truth)


def _line(scene_id: str, rng: Random) -> Scene:
    width, slant = rng.choice(list(WIDTHS)), rng.choice(list(SLANTS))
    colour, part = rng.choice(list(COLOURS)), rng.choice(PARTS)
    picture, draw = _page(rng)
    top = _top(rng)
    _paint_line(draw, width, slant, (top + 2, top + 29), COLOURS[colour])
    where = place(picture)
    questions = (ask_thickness("picture", width, part), ask_slant("picture", slant), ask_place("picture", where))
    truth = {"thickness": width, "slant": slant, "colour": colour, "place": where}
    return Scene(scene_id, picture, f"{width} {colour} {part} slanting {slant} at the {where}", questions, truth)


def _card(scene_id: str, rng: Random) -> Scene:
    word, colour = rng.choice(WORDS), rng.choice(list(COLOURS))
    picture, draw = _page(rng)
    _paint_word(draw, word, 0, COLOURS[colour])
    questions = (
        ask_word(word),
        Question("card-colour", "what colour is the card?", colour, f"the card is {colour}."),
    )
    caption = f"a card in {colour} with the word {word}"
    return Scene(scene_id, picture, caption, questions, {"word": word, "colour": colour})


def _sign(scene_id: str, rng: Random) -> Scene:
    word, style, part = rng.choice(WORDS), rng.choice(STYLES), rng.choice(PARTS)
    width, slant = rng.choice(list(WIDTHS)), rng.choice(list(SLANTS))
    picture, draw = _page(rng)
    top = _top(rng)
    _paint_word(draw, word, top, COLOURS["white"])
    _paint_line(draw, width, slant, (top + 15, top + 31), COLOURS["white"])
    where = place(picture)
    questions = (ask_word(word), ask_thickness(word, width, part), ask_slant(word, slant), ask_place(word, where))
    truth = {"word": word, "thickness": width, "slant": slant, "place": where}
    caption = f"a {style} {word} with {width} {part} slanting {slant} at the {where}"
    return Scene(scene_id, picture, caption, questions, truth)
