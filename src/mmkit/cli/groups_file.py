"""Group rows, as `--groups FILE` names them."""

from __future__ import annotations

from collections.abc import Iterable

from mmkit.errors import DataError
from mmkit.records import Record


def read_task_groups(path: str) -> dict[str, str]:
    """The group of each task in a file of rows with `task` and `group`.

    Raises DataError, naming the row, for another form and a task that comes twice, and for a file without rows.
    """
    from mmkit.streams import read_records

    return _task_groups(path, read_records(path, kind="json"))


def read_group_rows(path: str) -> list[Record]:
    """The rows of a file that `group` wrote, for other tasks to be put beside theirs. Raises as `read_task_groups`."""
    from mmkit.balance.groups import GroupRow
    from mmkit.streams import read_records

    rows = list(read_records(path, kind="json"))
    _task_groups(path, rows)
    for number, row in enumerate(rows, 1):
        try:
            GroupRow.from_wire(row)
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error}") from None
    return rows


def _task_groups(path: str, rows: Iterable[Record]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        task, group = row.get("task"), row.get("group")
        if not isinstance(task, str) or not isinstance(group, str) or not group:
            raise DataError(f'{path}: row {number}: expected {{"task": "…", "group": "…"}}')
        if task in groups:
            raise DataError(f"{path}: row {number}: task {task!r} a second time")
        groups[task] = group
    if not groups:
        raise DataError(f"{path}: no row names a group")
    return groups
