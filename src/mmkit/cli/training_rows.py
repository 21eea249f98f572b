"""Records, as the commands that train on them read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmkit.training.samples import Refused, Sample


def read_samples(
    inputs: Sequence[str],
    *,
    image_root: str | None = None,
    task_weights: Mapping[str, float] | None = None,
    default_weight: float | None = None,
) -> Iterator[Sample | Refused]:
    """The rows of `inputs` as samples, or why they are none. Options and errors as in `mmkit.training.sample_of`."""
    from mmkit.errors import DataError
    from mmkit.streams import Rejected, read
    from mmkit.training.samples import Refused, sample_of

    root = None if image_root is None else Path(image_root)
    for row in read(inputs):
        if isinstance(row, Rejected):
            where = f"{row.source}:{row.line}"
            yield Refused(where, row.record, type(row.error)(f"{where}: {row.error}"))
            continue
        try:
            yield sample_of(
                row.record,
                image_root=root,
                task_weights=task_weights,
                default_weight=default_weight,
                where=row.where,
            )
        except DataError as error:
            yield Refused(row.where, row.record, error)
