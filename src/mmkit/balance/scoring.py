"""A task's interaction score from what its views predicted: eq. 1, what chance gives, and how sure both are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mmkit import seeds
from mmkit.balance import chance
from mmkit.balance.accuracy import accuracies, score, scorer_of
from mmkit.balance.chance import Block
from mmkit.balance.interaction import UNIMODAL, VIEWS, Instance, InteractionRow, Mark, Similarity, Unimodal
from mmkit.balance.pairwise import Matrix
from mmkit.balance.similarity import (
    PARSED,
    Stratum,
    agreements,
    answer_of,
    choice_probabilities,
    is_unparsed,
    similarity_of,
    strata,
)
from mmkit.errors import DataError
from mmkit.records import Record
from mmkit.tasks import embedding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Values: TypeAlias = "NDArray[np.float64]"
_MOST_UNPARSED = 0.1


@dataclass(frozen=True, slots=True)
class Scored:
    """A task's row, and what it is the mean of: the agreements (text with both, image with both) of each instance."""

    row: InteractionRow
    agreements: Sequence[tuple[float, float]]


def require_scorable(record: Record, similarity: Similarity) -> None:
    """To be called before a model is asked about a record.

    Raises DataError where it could not be scored whatever the views predict: the similarity does not fit, or its gold
    answer is none that its metric knows. Raises UnavailableError where the similarity needs the sentence encoder, and
    that is not there.
    """
    if similarity_of(record, similarity) == "embed":
        embedding.encoder()
    scorer = scorer_of(record)
    if scorer is not None:
        score(scorer, record, "?")


def require_predicted(instance: Instance, similarity: Similarity) -> None:
    """Raise DataError, naming field and view, where an instance lacks what it is to be scored by."""
    for view in VIEWS:
        answer_of(instance, view)
    found = similarity_of(instance.record, similarity)
    if found == "likelihood":
        for view in VIEWS:
            choice_probabilities(instance, view)
    if found == "judge":
        for unimodal in UNIMODAL:
            value = (instance.judged or {}).get(unimodal)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise DataError(f"judged.{unimodal}: expected a number from 0 to 1, got {value!r}")


def score_task(
    task: str,
    instances: Sequence[Instance],
    drawn: Sequence[Sequence[int]],
    *,
    draws: int,
    size: int,
    similarity: Similarity = "auto",
    seed: int = 0,
) -> Scored:
    """Score a task.

    `instances` are in the order of `Draws.tasks`, by which the bootstrap goes; `drawn` has the numbers of the draws,
    from 0, that each is in (`Drawn.draws`). Nothing else but `seed` enters into it.

    Source: MINT, eq. 1. Deviation: none in `score`; what stands beside it is ours. Numbers are rounded to twelve
    decimals, intervals to six. `chance_*` and `corrected_*` are those of `chance`, with every instance as often as it
    was drawn. Raises DataError, naming the record, for one that cannot be scored, and ValueError without instances.
    """
    if not instances or len(instances) != len(drawn) or not all(drawn):
        raise ValueError("a task needs instances, and each of them a draw")
    for instance in instances:
        try:
            require_predicted(instance, similarity)
        except DataError as error:
            raise DataError(f"{task}, record {instance.record['id']!r}: {error}") from None
    divided = strata([instance.record for instance in instances], similarity)
    pairs, blocks = _agreements(instances, divided)
    members = _members(drawn, draws)
    weights = _weights(members)
    means = members @ pairs / members.sum(axis=1, keepdims=True)
    score_text, score_image = (float(value) for value in means.mean(axis=0))
    resamples = chance.resampled(weights, seeds.derive(seed, task, "interaction.bootstrap"))
    beyond_chance = _beyond_chance(blocks, weights, resamples)
    accuracy = _accuracy(instances, divided, weights, resamples, seed)
    unparsed = _unparsed(instances, divided)
    flags: dict[Mark, bool] = {
        "few": len(instances) < max(size, 2),
        "unlearned": accuracy.unlearned,
        "undefined": beyond_chance.corrected is None,
        "unparsed": unparsed is not None and unparsed > _MOST_UNPARSED * len(instances),
    }
    row = InteractionRow(
        task=task,
        score=_decimal(score_text + score_image),
        score_text=_decimal(score_text),
        score_image=_decimal(score_image),
        se=_standard_error(members, means.sum(axis=1)),
        ci95=chance.mean_interval(pairs.sum(axis=1), weights, resamples, (0.0, 2.0)),
        n=len(instances),
        draws=draws,
        size=size,
        similarity="+".join(sorted({stratum.similarity for stratum in divided})),
        unparsed=unparsed,
        chance_text=beyond_chance.chance_text,
        chance_image=beyond_chance.chance_image,
        corrected=beyond_chance.corrected,
        corrected_text=beyond_chance.corrected_text,
        corrected_image=beyond_chance.corrected_image,
        corrected_ci95=beyond_chance.ci95,
        accuracy=accuracy.value,
        accuracy_chance=accuracy.chance,
        accuracy_ci95=accuracy.ci95,
        marks=tuple(mark for mark, holds in flags.items() if holds),
    )
    return Scored(row, [(float(text), float(image)) for text, image in pairs])


def _agreements(
    instances: Sequence[Instance], divided: Sequence[Stratum]
) -> tuple[Matrix, Mapping[Unimodal, Sequence[Block]] | None]:
    """The agreements of the pairs, shape (instances, 2), and by view those of everything with everything of a stratum,
    which nobody has judged."""
    import numpy as np

    if divided[0].similarity == "judge":
        judged = [instance.judged or {} for instance in instances]
        return np.array([[given[view] for view in UNIMODAL] for given in judged], dtype=np.float64), None
    pairs = np.empty((len(instances), len(UNIMODAL)))
    blocks: dict[Unimodal, list[Block]] = {view: [] for view in UNIMODAL}
    for stratum in divided:
        for column, view in enumerate(UNIMODAL):
            matrix = agreements(instances, stratum, view)
            pairs[stratum.members, column] = matrix.diagonal()
            blocks[view].append((stratum, matrix))
    return pairs, blocks


def _members(drawn: Sequence[Sequence[int]], draws: int) -> Matrix:
    """1 where an instance is in a draw, shape (draws that hold any, instances)."""
    import numpy as np

    found = np.zeros((draws, len(drawn)))
    for place, numbers in enumerate(drawn):
        found[list(numbers), place] = 1
    return found[found.any(axis=1)]


def _weights(members: Matrix) -> Values:
    """How much each instance counts in eq. 1: as often as it was drawn, where all draws hold equally many."""
    sizes = members.sum(axis=1, keepdims=True)
    found: Values = (members * (sizes.max() / sizes)).sum(axis=0)
    return found


def _standard_error(members: Matrix, totals: Values) -> float | None:
    """That of the mean over draws; None for one draw, and where all hold the same instances."""
    if members.all() or len(members) < 2:
        return None
    return _decimal(float(totals.std(ddof=1)) / math.sqrt(len(members)))


class _BeyondChance(NamedTuple):
    chance_text: float | None = None
    chance_image: float | None = None
    corrected_text: float | None = None
    corrected_image: float | None = None
    corrected: float | None = None
    ci95: tuple[float, float] | None = None


def _beyond_chance(
    blocks: Mapping[Unimodal, Sequence[Block]] | None, weights: Values, resamples: Matrix
) -> _BeyondChance:
    if blocks is None:
        return _BeyondChance()
    text, image = (chance.agreement(blocks[view], weights[None]) for view in UNIMODAL)
    corrected = _number(text.corrected + image.corrected)
    ci95 = None
    if corrected is not None:
        drawn_text, drawn_image = (chance.agreement(blocks[view], resamples).corrected for view in UNIMODAL)
        with_partner = sum(len(stratum.members) for stratum, _ in blocks["text"] if len(stratum.members) > 1)
        ci95 = chance.interval(
            drawn_text + drawn_image,
            with_partner,
            lambda unseen: (
                float((text.shifted(unseen, 0.0) + image.shifted(unseen, 0.0))[0]),
                float((text.shifted(unseen, 1.0) + image.shifted(unseen, 1.0))[0]),
            ),
        )
    return _BeyondChance(
        _number(text.expected),
        _number(image.expected),
        _number(text.corrected),
        _number(image.corrected),
        corrected,
        ci95,
    )


class _Accuracy(NamedTuple):
    value: float | None
    chance: float | None
    ci95: tuple[float, float] | None
    unlearned: bool


def _accuracy(
    instances: Sequence[Instance], divided: Sequence[Stratum], weights: Values, resamples: Matrix, seed: int
) -> _Accuracy:
    own, by_chance = accuracies(instances, divided, seed)
    value, expected = (_number(chance.mean(values, weights[None])) for values in (own, by_chance))
    unlearned = False
    if expected is not None:
        ahead = chance.mean_interval(own - by_chance, weights, resamples, (-expected, 1 - expected))
        unlearned = ahead is not None and ahead[0] <= 0
    return _Accuracy(value, expected, chance.mean_interval(own, weights, resamples, (0.0, 1.0)), unlearned)


def _unparsed(instances: Sequence[Instance], divided: Sequence[Stratum]) -> int | None:
    """Of how many instances a prediction could not be read; None where texts are compared as they are."""
    counts = [
        sum(is_unparsed(instances[place], stratum.similarity) for place in stratum.members)
        for stratum in divided
        if stratum.similarity in PARSED
    ]
    return sum(counts) if counts else None


def _number(value: Values) -> float | None:
    """The one value that there is; None where it is not defined."""
    return None if math.isnan(value[0]) else _decimal(float(value[0]))


def _decimal(value: float) -> float:
    """Without the last digits, which rounding made: a score of .1 + .4 is not below the threshold .5."""
    return round(value, 12)
