"""Records, as the commands that train on them read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkit.cli.options import OptionGroup
from mmkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from mmkit.balance.members import Members
    from mmkit.training.samples import Refused, Sample


@dataclass(eq=False, repr=False)  # what nobody calls costs time at start-up
class OneGroup(OptionGroup):
    """Which of the rows, where it is not all."""

    group: Annotated[
        str | None, typer.Option("--group", metavar="NAME", help="Only the rows whose task is in this group.")
    ] = None
    groups: Annotated[
        str | None, typer.Option("--groups", metavar="FILE", help="Group rows: the group of each task, for --group.")
    ] = None

    def members(self) -> Members | None:
        """The rows that are meant; None for all. Raises UsageError where only one of the options is given, and for a
        group that is not there."""
        if self.group is None and self.groups is None:
            return None
        if self.group is None or self.groups is None:
            missing = "--group NAME" if self.group is None else "--groups FILE"
            raise UsageError(f"--group and --groups go together: give {missing}, too")
        from mmkit.balance.members import Members
        from mmkit.cli.groups_file import read_task_groups

        return Members(self.group, read_task_groups(self.groups), self.groups)


def read_samples(
    inputs: Sequence[str],
    *,
    image_root: str | None = None,
    task_weights: Mapping[str, float] | None = None,
    default_weight: float | None = None,
    members: Members | None = None,
) -> Iterator[Sample | Refused]:
    """The rows of `inputs` as samples, or why they are none. Options and errors as in `mmkit.training.sample_of`.

    With `members` those of other groups are passed over; a row that is in none is refused. Raises DataError where no
    row is left then.
    """
    from mmkit.streams import Rejected, read
    from mmkit.training.samples import Refused, sample_of

    root = None if image_root is None else Path(image_root)
    for row in read(inputs):
        if isinstance(row, Rejected):
            where = f"{row.source}:{row.line}"
            yield Refused(where, row.record, type(row.error)(f"{where}: {row.error}"))
            continue
        try:
            if members is not None and not members.hold(row.record):
                continue
        except DataError as error:
            yield Refused(row.where, row.record, DataError(f"{row.where}: {error}"))
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
    if members is not None and not members.num_own:
        raise DataError(f"no row is in the group {members.group!r}: {members.num_others:,} are in others")
