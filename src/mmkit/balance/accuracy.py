"""How often `both` is right, and how often it would be with the predictions that it gave for other records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from mmkit import seeds
from mmkit.balance.interaction import Instance
from mmkit.balance.similarity import Stratum, carried_over
from mmkit.records import Record
from mmkit.tasks.metrics import PERCENT, RowScorer, metric_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARTNERS = 16
Values: TypeAlias = "NDArray[np.float64]"


def scorer_of(record: Record) -> RowScorer | None:
    """The record's metric by its default rule; None where nothing could be scored by it.

    That is so without a gold answer, and for metrics that need all rows at once, grade by a judge, or are in no
    percent. Raises DataError where the record names an unknown metric or benchmark.
    """
    if not any(str(gold or "").strip() for gold in (record.get("answer"), *(record.get("answers") or ()))):
        return None
    metric = metric_for(record)
    return metric.rules.get(metric.default_rule) if metric.range == PERCENT and metric.default_rule != "judge" else None


def accuracies(instances: Sequence[Instance], strata: Sequence[Stratum], seed: int) -> tuple[Values, Values]:
    """The score of what `both` predicted for each instance, and the mean score there of what it predicted for others of
    the stratum: up to 16, by (seed, their ids). Both in [0, 1], nan where there is none.

    A prediction that names an option goes over as that option, whatever its letter there; where each record has
    choices of its own, as the one at the same place. Raises DataError where a gold answer cannot be scored.
    """
    import numpy as np

    own, by_chance = np.full((2, len(instances)), np.nan)
    for stratum in strata:
        order = sorted(
            stratum.members,
            key=lambda place: (seeds.derive(seed, instances[place].record["id"], "interaction.partner"), place),
        )
        for at, place in enumerate(order):
            instance = instances[place]
            scorer = scorer_of(instance.record)
            if scorer is None:
                continue
            own[place] = score(scorer, instance.record, instance.predictions["both"])
            partners = [instances[order[at - shift]] for shift in range(1, min(PARTNERS, len(order) - 1) + 1)]
            if partners:
                said = [
                    carried_over(
                        partner.record, partner.predictions["both"], instance.record, by_position=stratum.by_position
                    )
                    for partner in partners
                ]
                scores = {text: score(scorer, instance.record, text) for text in dict.fromkeys(said)}
                by_chance[place] = math.fsum(scores[text] for text in said) / len(said)
    return own, by_chance


def score(scorer: RowScorer, record: Mapping[str, object], prediction: str) -> float:
    """The score of a prediction, in [0, 1]. Raises DataError where the gold answer cannot be scored."""
    return scorer({**record, "prediction": prediction}).value / PERCENT[1]
