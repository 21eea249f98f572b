"""Drawn pictures whose content is known: shapes, lines, word cards and signs.

They are the general domain of the miniature AdaMLLM recipe. A sign's caption has the same skeleton as a digit's ("a
neon dog with thin curves slanting left"), so that a synthesizer can learn which words of it a question is about;
neither "handwritten" nor "strokes" occurs in any of them, and no handwritten digit does.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

from mmkit import seeds
from mmkit.testing.planted.scene import SIDE, Question, Scene

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
SLANTS = {"left": -10, "right": 10, "upright": 0}
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


def _paint_line(draw: ImageDraw, width: str, slant: str, fill: tuple[int, int, int]) -> None:
    shift = SLANTS[slant]
    draw.line([24 - shift, 45, 24 + shift, 17], fill=fill, width=WIDTHS[width])


def _paint_word(draw: ImageDraw, word: str, fill: tuple[int, int, int]) -> None:
    from PIL import ImageFont

    draw.text((4, 0), word, fill=fill, font=ImageFont.load_default(size=12))


def _shape(scene_id: str, rng: Random) -> Scene:
    shape, colour, size = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(list(SIZES))
    radius = SIZES[size]
    picture, draw = _page(rng)
    low, high = radius + 2, SIDE - radius - 2
    paint_shape(draw, shape, rng.randint(low, high), rng.randint(low, high), radius, COLOURS[colour])
    questions = (
        Question("shape", "which shape is shown?", shape, f"the shape shown is a {colour} {shape}."),
        Question("shape-colour", "what colour is the shape?", colour, f"the {shape} is {colour}."),
        Question("size", "how big is the shape?", size, f"the {shape} is {size}."),
    )
    truth = {"shape": shape, "colour": colour, "size": size}
    return Scene(scene_id, picture, f"a {size} {colour} {shape}", questions, truth)


def _line(scene_id: str, rng: Random) -> Scene:
    width, slant = rng.choice(list(WIDTHS)), rng.choice(list(SLANTS))
    colour, part = rng.choice(list(COLOURS)), rng.choice(PARTS)
    picture, draw = _page(rng)
    _paint_line(draw, width, slant, COLOURS[colour])
    questions = (ask_thickness("picture", width, part), ask_slant("picture", slant))
    truth = {"thickness": width, "slant": slant, "colour": colour}
    return Scene(scene_id, picture, f"{width} {colour} {part} slanting {slant}", questions, truth)


def _card(scene_id: str, rng: Random) -> Scene:
    word, colour = rng.choice(WORDS), rng.choice(list(COLOURS))
    picture, draw = _page(rng)
    _paint_word(draw, word, COLOURS[colour])
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
    _paint_line(draw, width, slant, COLOURS["white"])
    _paint_word(draw, word, COLOURS["white"])
    questions = (ask_word(word), ask_thickness(word, width, part), ask_slant(word, slant))
    truth = {"word": word, "thickness": width, "slant": slant}
    return Scene(scene_id, picture, f"a {style} {word} with {width} {part} slanting {slant}", questions, truth)
