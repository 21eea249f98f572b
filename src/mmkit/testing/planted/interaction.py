"""Tasks in which it is known what each modality tells about the answer (after MINT's redundancy, uniqueness, synergy).

A picture has a page and a thing on it, each with a colour; a context is a short note. Answers come from:

| task | kind | the answer is |
|---|---|---|
| redundant-colour, redundant-page | redundancy | told by picture and context alike |
| unique-image | uniqueness | told by the picture; the context is about something else |
| unique-text | uniqueness | told by the context; the picture is about something else |
| synergy-latin | synergy | the page moved on by the context's key in a 3×3 Latin square |
| synergy-xor | synergy | whether the thing's colour is warm, turned round if the context says so |

The facts of a task run through all their combinations before one comes again (in an order of its own each time), so
that in any whole number of `period(task)` rows the answer of a synergistic task is exactly independent of the picture
alone and of the context alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmkit import seeds
from mmkit.testing.planted.drawn import SHAPES, paint_shape
from mmkit.testing.planted.scene import SIDE, Question, Scene

THINGS = {
    "red": (220, 30, 30),
    "orange": (250, 140, 20),
    "yellow": (235, 220, 40),
    "brown": (120, 70, 30),
    "green": (30, 160, 40),
    "blue": (40, 60, 220),
    "purple": (140, 40, 160),
    "cyan": (40, 210, 220),
}
WARM = ("red", "orange", "yellow", "brown")
PAGES = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "pink": (255, 170, 200)}
ANIMALS = ("cat", "dog", "cow", "hen", "fox", "pig")
NAMES = ("tom", "ann", "joe", "sue")
ITEMS = ("cups", "pens", "hats", "keys")
KEYS = ("one", "two", "three")
CODES = ("a", "b", "c")
LATIN_PAGES = tuple(PAGES)[:3]


@dataclass(frozen=True, slots=True)
class _Plan:
    kind: str
    question: str
    choices: tuple[str, ...]
    facts: dict[str, tuple[str, ...]]
    """What runs through all combinations; a colour or page that is not among them is drawn freely."""


_PLANS = {
    "redundant-colour": _Plan("redundancy", "what colour is the thing?", tuple(THINGS), {"colour": tuple(THINGS)}),
    "redundant-page": _Plan("redundancy", "what is the page like?", tuple(PAGES), {"page": tuple(PAGES)}),
    "unique-image": _Plan("uniqueness", "which paint is in the picture?", tuple(THINGS), {"colour": tuple(THINGS)}),
    "unique-text": _Plan("uniqueness", "which animal?", ANIMALS, {"animal": ANIMALS, "page": tuple(PAGES)}),
    "synergy-latin": _Plan("synergy", "which code?", CODES, {"page": LATIN_PAGES, "key": KEYS}),
    "synergy-xor": _Plan("synergy", "is it on?", ("yes", "no"), {"colour": tuple(THINGS), "rule": ("keep", "flip")}),
}
TASKS = tuple(_PLANS)


def period(task: str) -> int:
    """Number of rows in which every combination of the task's facts occurs once."""
    return len(_combinations(task))


def scenes(task: str, count: int, seed: int = 0) -> Iterator[tuple[Scene, dict[str, Any]]]:
    """The first `count` (scene, record) pairs of one of `TASKS`.

    A record has `context`, `question`, `choices`, `answer` and, under `truth`, `kind` (redundancy, uniqueness or
    synergy) and the facts. Row i depends on (seed, task, i) only.
    """
    plan, combinations = _PLANS[task], _combinations(task)
    for index in range(count):
        block, place = divmod(index, len(combinations))
        order = seeds.generator(seed, f"{task}-{block}", "planted.interaction.order")
        facts = order.sample(combinations, len(combinations))[place]
        yield _row(f"{task}-{index:05d}", task, plan, facts, seed)


def _combinations(task: str) -> list[dict[str, str]]:
    facts = _PLANS[task].facts
    return [dict(zip(facts, values, strict=True)) for values in itertools.product(*facts.values())]


def _row(row_id: str, task: str, plan: _Plan, facts: dict[str, str], seed: int) -> tuple[Scene, dict[str, Any]]:
    from PIL import Image, ImageDraw

    rng = seeds.generator(seed, row_id, "planted.interaction")
    colour = facts.get("colour") or rng.choice(list(THINGS))
    page = facts.get("page") or rng.choice(list(PAGES))
    unrelated = f"memo: {rng.choice(NAMES)} has {rng.choice(KEYS)} {rng.choice(ITEMS)}."
    picture = Image.new("RGB", (SIDE, SIDE), PAGES[page])
    radius = rng.randint(11, 16)
    low, high = radius + 2, SIDE - radius - 3
    shape, x, y = rng.choice(SHAPES), rng.randint(low, high), rng.randint(low, high)
    paint_shape(ImageDraw.Draw(picture), shape, x, y, radius, THINGS[colour])
    context, answer = _told(task, facts, unrelated)
    caption = f"a {colour} {shape} on a {page} page"
    question = Question(task, plan.question, answer, f"the answer is {answer}.")
    scene = Scene(row_id, picture, caption, (question,), {"colour": colour, "page": page, **facts})
    record = {
        "id": row_id,
        "task": task,
        "images": [scene.image],
        "context": context,
        "question": plan.question,
        "choices": list(plan.choices),
        "answer": answer,
        "truth": {"kind": plan.kind, **scene.truth},
    }
    return scene, record


def _told(task: str, facts: dict[str, str], unrelated: str) -> tuple[str, str]:
    """The context and the answer."""
    if task == "redundant-colour":
        return f"note: the thing is {facts['colour']}.", facts["colour"]
    if task == "redundant-page":
        return f"note: the page is {facts['page']}.", facts["page"]
    if task == "unique-image":
        return unrelated, facts["colour"]
    if task == "unique-text":
        return f"memo: the {facts['animal']} is here.", facts["animal"]
    if task == "synergy-latin":
        moved = LATIN_PAGES.index(facts["page"]) + KEYS.index(facts["key"])
        return f"key: {facts['key']}.", CODES[moved % len(CODES)]
    warm, flip = facts["colour"] in WARM, facts["rule"] == "flip"
    return f"rule: {facts['rule']}.", "yes" if warm != flip else "no"
