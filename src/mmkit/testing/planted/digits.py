"""scikit-learn's handwritten digits (1,797 scans, 8×8, 16 grey levels) with captions computed from label and pixels.

The scans are real; only the sentences are made. The set is centred and scaled to its box, so that a digit's position
in the frame says nothing, and none is claimed. Needs the extra `eval`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmkit import seeds
from mmkit.errors import missing_extra
from mmkit.testing.planted.drawn import NUMBERS, ask_slant, ask_thickness, ask_word
from mmkit.testing.planted.scene import SIDE, Scene

if TYPE_CHECKING:
    from numpy import ndarray

NUM_SCANS = 1797


def digits(num_train: int, num_test: int, seed: int = 0) -> tuple[list[Scene], list[Scene]]:
    """Two disjoint lists of scenes, a scan each, drawn by (seed, scan).

    Each has three questions: `word` (zero to nine), `thickness` (thin, thick) and `slant` (left, upright, right).
    Thickness is ink per touched cell, cut at its median over the set; slant is the ink's shear, cut at its thirds.
    Raises ValueError if there are not that many scans, UnavailableError without scikit-learn.
    """
    if num_train < 0 or num_test < 0 or num_train + num_test > NUM_SCANS:
        raise ValueError(f"there are {NUM_SCANS} scans, not {num_train} + {num_test}")
    scans, labels = _load()
    widths, slants = _thickness(scans), _slant(scans)
    order = sorted(range(NUM_SCANS), key=lambda i: seeds.derive(seed, _id(i), "planted.digits.split"))

    def scene(i: int) -> Scene:
        return _scene(i, scans[i], NUMBERS[int(labels[i])], widths[i], slants[i])

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


def _scene(index: int, scan: ndarray[Any, Any], word: str, width: str, slant: str) -> Scene:
    from PIL import Image

    grey = Image.fromarray((scan * 255).astype("uint8"))
    picture = grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
    caption = f"a handwritten {word} with {width} strokes slanting {slant}"
    questions = (ask_word(word), ask_thickness(word, width, "strokes"), ask_slant(word, slant))
    truth = {"word": word, "thickness": width, "slant": slant}
    return Scene(_id(index), picture, caption, questions, truth)
