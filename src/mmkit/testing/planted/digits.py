"""scikit-learn's handwritten digits (1,797 scans, 8×8, 16 grey levels) with captions computed from label and pixels.

The scans are real; the sentences are made, and so is where a scan stands: the set is centred, each digit scaled to its
box, so every scan is pasted at the top or at the bottom of a larger black picture, as (seed, scan) draw it. Label,
thickness and slant are thus a fact about the scan, position one about the paste. Needs the extra `eval`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmkit import seeds
from mmkit.errors import missing_extra
from mmkit.testing.planted.drawn import NUMBERS, ask_place, ask_slant, ask_thickness, ask_word
from mmkit.testing.planted.scene import PLACES, SIDE, Scene, place

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL.Image import Image

NUM_SCANS = 1797
SCAN_SIDE = 32
"""Width and height of a scan in its picture, in pixels: four to a cell."""


def digits(num_train: int, num_test: int, seed: int = 0) -> tuple[list[Scene], list[Scene]]:
    """Two disjoint lists of scenes, a scan each, drawn by (seed, scan).

    Each has four questions: `word` (zero to nine), `thickness` (thin, thick), `slant` (left, upright, right) and
    `place` (top, bottom). Thickness is ink per touched cell, cut at its median over the set; slant is the ink's shear,
    cut at its thirds; place is where the ink lies in the finished picture.
    Raises ValueError if there are not that many scans, UnavailableError without scikit-learn.
    """
    if num_train < 0 or num_test < 0 or num_train + num_test > NUM_SCANS:
        raise ValueError(f"there are {NUM_SCANS} scans, not {num_train} + {num_test}")
    scans, labels = _load()
    widths, slants = _thickness(scans), _slant(scans)
    order = sorted(range(NUM_SCANS), key=lambda i: seeds.derive(seed, _id(i), "planted.digits.split"))

    def scene(i: int) -> Scene:
        picture = _picture(scans[i], drawn_place(i, seed))
        return _scene(_id(i), picture, NUMBERS[int(labels[i])], widths[i], slants[i])

    return [scene(i) for i in order[:num_train]], [scene(i) for i in order[num_train : num_train + num_test]]


def _load() -> tuple[ndarray[Any, Any], ndarray[Any, Any]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("scikit-learn", "eval") from error
    data = load_digits()
    return data.images / 16.0, data.target


def _id(index: int) -> str:
    return f"digit-{index:04d}"


def _thickness(scans: ndarray[Any, Any]) -> list[str]:
    """A cell counts the inked ones of 4×4 scanner dots: the fuller the touched cells, the wider the pen."""
    import numpy as np

    fullness = scans.sum((1, 2)) / (scans > 0).sum((1, 2))
    middle = np.median(fullness)
    return ["thick" if value > middle else "thin" for value in fullness]


def _slant(scans: ndarray[Any, Any]) -> list[str]:
    """Covariance of x and height over the variance of height: above 0 leans to the right, as an italic does."""
    import numpy as np

    y, x = np.mgrid[:8, :8]
    ink = scans.sum((1, 2))
    dx = x - ((scans * x).sum((1, 2)) / ink)[:, None, None]
    dy = y - ((scans * y).sum((1, 2)) / ink)[:, None, None]
    shear = -(scans * dx * dy).sum((1, 2)) / (scans * dy * dy).sum((1, 2))
    low, high = np.quantile(shear, [1 / 3, 2 / 3])
    return ["left" if value < low else "right" if value > high else "upright" for value in shear]


def drawn_place(index: int, seed: int) -> str:
    """Where scan `index` is pasted, one of `PLACES`."""
    return seeds.generator(seed, _id(index), "planted.digits.place").choice(PLACES)


def _picture(scan: ndarray[Any, Any], where: str) -> Image:
    from PIL import Image

    grey = Image.fromarray((scan * 255).astype("uint8"))
    picture = Image.new("RGB", (SIDE, SIDE))
    left, top = (SIDE - SCAN_SIDE) // 2, 0 if where == "top" else SIDE - SCAN_SIDE
    picture.paste(grey.resize((SCAN_SIDE, SCAN_SIDE), Image.Resampling.BICUBIC).convert("RGB"), (left, top))
    return picture


def _scene(scene_id: str, picture: Image, word: str, width: str, slant: str) -> Scene:
    where = place(picture)
    caption = f"a handwritten {word} with {width} strokes slanting {slant} at the {where}"
    questions = (ask_word(word), ask_thickness(word, width, "strokes"), ask_slant(word, slant), ask_place(word, where))
    truth = {"word": word, "thickness": width, "slant": slant, "place": where}
    return Scene(scene_id, picture, caption, questions, truth)
