"""How alike two texts are, from 0 to 1: every text of one list with every one of another.

All give 1 for texts that are equal once `folded`, and a matrix of shape (ones, others).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from mmkit.tasks import embedding
from mmkit.tasks.extraction import answer_span, parse_box, parse_number, plain
from mmkit.tasks.metrics.words import scored_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Matrix: TypeAlias = "NDArray[np.float64]"
Mask: TypeAlias = "NDArray[np.bool_]"
Label = TypeVar("Label", bound=Hashable)

_FEW_WORDS = 3
_NEGATION = re.compile(
    r"\b(?:no|not|none|never|neither|nor|nothing|nobody|nowhere|without|cannot|absent|absence|lacks?|lacking"
    r"|negative|free (?:of|from)|ruled out|den(?:y|ies|ied))\b|n['’]t\b",
    re.IGNORECASE,
)
"""English words, and those of clinical reports in NegEx (Chapman et al. 2001)."""
_RUN = re.compile(r"[a-z0-9]+")
_COLUMNS_AT_ONCE = 4096
_LONGEST_SIDE = 1e100  # no area of a box within it is beyond the floats


def of_distinct(
    ones: Sequence[Label], others: Sequence[Label], compare: Callable[[list[Label], list[Label]], Matrix]
) -> Matrix:
    """`compare` of every pair, each distinct one compared once."""
    import numpy as np

    row_of, column_of = ({label: place for place, label in enumerate(dict.fromkeys(side))} for side in (ones, others))
    rows, columns = np.array([row_of[label] for label in ones]), np.array([column_of[label] for label in others])
    found: Matrix = compare(list(row_of), list(column_of))[np.ix_(rows, columns)]
    return found


def folded(text: str) -> str:
    """The answer in a text as the metric em reads it by its rule "strict"."""
    return plain(answer_span(text))


def same(ones: Sequence[Hashable], others: Sequence[Hashable]) -> Matrix:
    """1 for equal labels."""
    import numpy as np

    numbers: dict[Hashable, int] = {}
    rows, columns = (np.array([numbers.setdefault(label, len(numbers)) for label in side]) for side in (ones, others))
    equal: Matrix = (rows[:, None] == columns[None, :]).astype(np.float64)
    return equal


def same_text(ones: Sequence[str], others: Sequence[str]) -> Matrix:
    """1 for texts that are equal once folded."""
    return same([folded(text) for text in ones], [folded(text) for text in others])


def same_number(ones: Sequence[str], others: Sequence[str]) -> Matrix:
    """1 for texts that answer with equal numbers."""

    def label(text: str) -> float | str:
        number = parse_number(text)
        return folded(text) if number is None else number

    return same([label(text) for text in ones], [label(text) for text in others])


def shared_words(ones: Sequence[str], others: Sequence[str]) -> Matrix:
    """Token F1, as the metric's rule "strict" has it.

    The words that two texts share are a product of two matrices whose columns are "the k-th time of a word".
    """
    import numpy as np

    counts = [[Counter(scored_words(answer_span(text))) for text in side] for side in (ones, others)]
    columns: dict[tuple[str, int], int] = {}
    left, right = (
        [
            [columns.setdefault((word, time), len(columns)) for word, times in count.items() for time in range(times)]
            for count in side
        ]
        for side in counts
    )
    shared = np.zeros((len(ones), len(others)))
    for start in range(0, len(columns), _COLUMNS_AT_ONCE):
        shared += _indicators(left, start) @ _indicators(right, start).T
    return np.maximum(_f1(shared, *map(_lengths, (left, right))), same_text(ones, others))


def common_subsequence(ones: Sequence[str], others: Sequence[str]) -> Matrix:
    """F1 of the longest common subsequence of words, as the metric rouge-l's rule "strict" has it.

    A text is compared with all others at once: they lie side by side in one long integer, a bit a word and a free bit
    behind each text, and the length of the subsequence is the number of bits that fall. Source: Hyyrö 2004,
    "Bit-parallel LCS-length computation revisited". Deviation: texts without a word of ASCII letters or digits count as
    alike where they are equal.
    """
    import numpy as np

    left, right = ([_RUN.findall(text.lower()) for text in side] for side in (ones, others))
    starts = np.cumsum([0, *(len(words) + 1 for words in right)])
    places: dict[str, list[int]] = {}
    for start, words in zip(starts.tolist(), right, strict=False):
        for offset, word in enumerate(words):
            places.setdefault(word, []).append(start + offset)
    total = int(starts[-1])
    masks = {word: _bits(total, found) for word, found in places.items()}
    every = ((1 << total) - 1) ^ _bits(total, (starts[1:] - 1).tolist())
    common = np.empty((len(ones), len(others)))
    for row, words in enumerate(left):
        standing = every
        for word in words:
            hit = standing & masks.get(word, 0)
            standing = ((standing + hit) | (standing - hit)) & every
        bits = np.frombuffer(standing.to_bytes(total // 8 + 1, "little"), dtype=np.uint8)
        still = np.add.reduceat(np.unpackbits(bits, bitorder="little")[:total], starts[:-1], dtype=np.int64)
        common[row] = np.diff(starts) - 1 - still
    return np.maximum(_f1(common, *map(_lengths, (left, right))), same_text(ones, others))


def meanings(ones: Sequence[str], others: Sequence[str]) -> Matrix:
    """Cosine of sentence embeddings, 0 for those below it; by `same_text` what they cannot judge.

    That is: where either text has at most three words, where one is negated and the other is not, and where both state
    numbers, and not the same. Raises UnavailableError as `embedding.embed` does.
    """
    import numpy as np

    place_of = {text: place for place, text in enumerate(dict.fromkeys((*ones, *others)))}
    vectors = embedding.embed(list(place_of)).astype(np.float64)
    cosines = vectors[[place_of[text] for text in ones]] @ vectors[[place_of[text] for text in others]].T
    equal = same_text(ones, others)
    cosines = np.maximum(np.clip(cosines, 0.0, 1.0), equal)
    return np.where(_beyond_embeddings(ones, others), equal, cosines)


def overlaps(ones: Sequence[str], others: Sequence[str]) -> Matrix:
    """Intersection over union of boxes, as the metric iou has it."""
    import numpy as np

    left, right = (np.array([parse_box(text) or (0.0,) * 4 for text in side]) for side in (ones, others))
    left, right = (side.clip(-_LONGEST_SIDE, _LONGEST_SIDE) for side in (left, right))
    low, high = np.maximum(left[:, None, :2], right[None, :, :2]), np.minimum(left[:, None, 2:], right[None, :, 2:])
    common = (high - low).clip(0).prod(-1)
    rows, columns = ((side[:, 2:] - side[:, :2]).clip(0).prod(-1) for side in (left, right))
    union = rows[:, None] + columns[None, :] - common
    found: Matrix = np.divide(common, union, out=np.zeros(union.shape), where=union > 0)
    return np.maximum(found, same_text(ones, others))


def common_mass(ones: Matrix, others: Matrix) -> Matrix:
    """1 - total variation distance of distributions, given as rows: what two of them have in common."""
    import numpy as np

    common = np.zeros((len(ones), len(others)))
    for one, other in zip(ones.T, others.T, strict=True):
        common += np.minimum(one[:, None], other[None, :])
    return np.minimum(common, 1.0)


def _f1(shared: Matrix, rows: Matrix, columns: Matrix) -> Matrix:
    """F1 of what texts of so many words share; 0 where neither has any."""
    import numpy as np

    found: Matrix = 2 * shared / np.maximum(rows[:, None] + columns[None, :], 1)
    return found


def _lengths(texts: Sequence[Sequence[object]]) -> Matrix:
    import numpy as np

    return np.array([len(words) for words in texts], dtype=np.float64)


def _indicators(texts: Sequence[Sequence[int]], start: int) -> NDArray[np.float32]:
    """1 where a text has a column, of the columns from `start` on. float32 adds such whole numbers up exactly."""
    import numpy as np

    found = np.zeros((len(texts), _COLUMNS_AT_ONCE), dtype=np.float32)
    for row, columns in enumerate(texts):
        found[row, [column - start for column in columns if start <= column < start + _COLUMNS_AT_ONCE]] = 1
    return found


def _bits(total: int, places: Sequence[int]) -> int:
    """An integer of `total` bits, of which those at `places` are set."""
    import numpy as np

    flags = np.zeros(total, dtype=np.uint8)
    flags[places] = 1
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")


def _beyond_embeddings(ones: Sequence[str], others: Sequence[str]) -> Mask:
    """Which pairs sentence embeddings cannot judge."""
    import numpy as np

    sides = (ones, others)
    short = [np.array([len(text.split()) <= _FEW_WORDS for text in side]) for side in sides]
    negated = [np.array([_NEGATION.search(text) is not None for text in side]) for side in sides]
    numbers = [[frozenset(word for word in scored_words(text) if word[0].isdigit()) for text in side] for side in sides]
    stated = [np.array([bool(found) for found in side]) for side in numbers]
    other_numbers = stated[0][:, None] & stated[1][None, :] & (same(*numbers) == 0)
    beyond: Mask = (
        (short[0][:, None] | short[1][None, :]) | (negated[0][:, None] != negated[1][None, :]) | other_numbers
    )
    return beyond
