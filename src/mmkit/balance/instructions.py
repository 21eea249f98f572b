"""Which tasks have like instructions: the grouping that MINT is compared with.

Source: INSTA (Lee et al. 2024, "Instruction Matters", arXiv 2404.16418), which chooses tasks by the cosine of their
instructions' sentence embeddings, as MINT (arXiv 2506.02308v1, section 4.1.3) uses it: three clusters of tasks.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmkit import seeds
from mmkit.balance.grouping import NUM_GROUPS, group_name, require_enough
from mmkit.balance.groups import GroupRow
from mmkit.errors import DataError
from mmkit.records import question_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], "NDArray[np.float32]"]


class Instructions:
    """Up to `most` distinct instructions of each task.

    Which ones is a function of (seed, text), so it depends on no order; memory is what is kept.
    """

    def __init__(self, most: int, seed: int = 0) -> None:
        self._most, self._seed = most, seed
        self._heaps: dict[str, list[tuple[int, str]]] = {}

    def add(self, task: str, text: str) -> None:
        """Take in an instruction of a task."""
        heap = self._heaps.setdefault(task, [])
        entry = (-seeds.derive(self._seed, text, "group.instructions"), text)
        if len(heap) == self._most and entry <= heap[0]:
            return
        if entry not in heap:
            (heapq.heappushpop if len(heap) == self._most else heapq.heappush)(heap, entry)

    def by_task(self) -> dict[str, list[str]]:
        """The instructions of each task, tasks and texts in an order of their own."""
        return {task: sorted(text for _, text in self._heaps[task]) for task in sorted(self._heaps)}


def instruction_of(record: Mapping[str, Any]) -> str:
    """A record's `instruction`, else its question, else its first user turn. Raises DataError where there is none."""
    own = record.get("instruction")
    text = own if isinstance(own, str) and own.strip() else question_of(record)
    if text is None:
        raise DataError("no instruction, question or user turn to compare tasks by")
    return text


def by_similarity(
    instructions: Mapping[str, Sequence[str]], embed: Embed, *, num_groups: int = NUM_GROUPS
) -> list[GroupRow]:
    """Clusters of tasks by their instructions. `embed` gives a unit vector for each text.

    A task is the mean of its instructions' vectors; clusters are joined while there are more than `num_groups`, always
    the two whose tasks' mean cosine distance is least (average linkage). They are called group-1, group-2 and so on by
    their first task's name.

    Source: see the module. Deviation: neither paper names a clustering; agglomeration needs no random start, and its
    result depends on no order. MINT's three clusters have six tasks each; nothing here makes sizes equal.
    Raises UsageError where there are fewer tasks than groups, DataError where there is none.
    """
    tasks = sorted(instructions)
    if not tasks:
        raise DataError("there is no task to group")
    require_enough(len(tasks), num_groups)
    clusters: dict[int, list[str]] = {}
    for task, cluster in zip(tasks, _clusters(_means(instructions, tasks, embed), num_groups), strict=True):
        clusters.setdefault(cluster, []).append(task)
    return [
        GroupRow(task, group_name(number), "similarity")
        for number, members in enumerate(clusters.values())
        for task in members
    ]


def _means(instructions: Mapping[str, Sequence[str]], tasks: Sequence[str], embed: Embed) -> NDArray[np.float64]:
    """The mean vector of each task, shape (number of tasks, width)."""
    import numpy as np

    vectors = embed([text for task in tasks for text in instructions[task]])
    ends = np.cumsum([len(instructions[task]) for task in tasks])
    return np.stack([own.mean(axis=0, dtype=np.float64) for own in np.split(vectors, ends[:-1])])


def _clusters(vectors: NDArray[np.float64], num_clusters: int) -> list[int]:
    """The cluster of each vector."""
    if len(vectors) == 1:  # of which scikit-learn makes none
        return [0]
    from sklearn.cluster import AgglomerativeClustering

    clusters: list[int] = (
        AgglomerativeClustering(num_clusters, metric="cosine", linkage="average").fit_predict(vectors).tolist()
    )
    return clusters
