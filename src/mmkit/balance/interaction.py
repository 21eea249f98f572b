"""What `score-interaction` measures, as values: the views, a task's instances with their predictions, a task's row.

Source: MINT (arXiv 2506.02308v1), section 3.1. Every view is a prediction function: f1 sees the text, f2 the image, fm both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from mmkit.errors import DataError
from mmkit.records import Record

View: TypeAlias = Literal["text", "image", "both"]
VIEWS: tuple[View, ...] = get_args(View)

Similarity: TypeAlias = Literal["auto", "exact", "choice", "number", "f1", "rouge-l", "embed", "judge", "likelihood"]
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)

Mark: TypeAlias = Literal["few", "unlearned", "undefined"]
"""Why a row is to be read with care. "few": fewer instances than a draw has. "unlearned": `both` is right no more often than
by chance, so its agreement with anything says nothing about the task. "undefined": there is no chance-corrected score, as
the predictions hardly vary."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A record of a task with what each view predicted.

    `log_probs` are there where the similarity is "likelihood": the log-probability of each choice, by view.
    """

    record: Record
    predictions: Mapping[View, str]
    log_probs: Mapping[View, Mapping[str, float]] | None = None


@dataclass(frozen=True, slots=True)
class InteractionRow:
    """A task's interaction score.

    `score` is eq. 1, from 0 (synergy) over 1 (uniqueness) to 2 (redundancy), the sum of `score_text` and `score_image`,
    the mean agreements of the unimodal views with `both`, each in [0, 1]. `se` is its standard error over draws, `ci95` a
    bootstrap interval over instances. `n` instances were scored, `draws` times `size` of them drawn.

    `chance_*` is the agreement expected if predictions were shuffled among the task's instances, `corrected_*` is
    (score - chance) / (1 - chance) (Cohen's kappa for exact matches), at most 1, 0 for a constant guess, null where the
    chance is above .95; `corrected` is their sum. `accuracy` in [0, 1] is that of `both` against gold answers, with its own
    chance and interval, null where there are none.
    """

    task: str
    score: float
    score_text: float
    score_image: float
    se: float | None
    ci95: tuple[float, float] | None
    n: int
    draws: int
    size: int
    similarity: str
    chance_text: float | None = None
    chance_image: float | None = None
    corrected: float | None = None
    corrected_text: float | None = None
    corrected_image: float | None = None
    corrected_ci95: tuple[float, float] | None = None
    accuracy: float | None = None
    accuracy_chance: float | None = None
    accuracy_ci95: tuple[float, float] | None = None
    marks: tuple[Mark, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """The JSON row: every field by its name."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}

    @classmethod
    def from_wire(cls, row: Mapping[str, Any]) -> InteractionRow:
        """Read a row. Only `task` and `score` are needed: a row typed in from a paper is one, too.

        Raises DataError with the field's name.
        """
        raise DataError("not yet")
