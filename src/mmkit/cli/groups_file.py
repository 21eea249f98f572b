"""Group rows, as `--groups FILE` names them."""

from __future__ import annotations

from mmkit.errors import DataError


def read_task_groups(path: str) -> dict[str, str]:
    """The group of each task in a file of rows with `task` and `group`.

    Raises DataError, naming the row, for another form and a task that comes twice.
    """
    from mmkit.streams import read_records

    groups: dict[str, str] = {}
    for number, row in enumerate(read_records(path, kind="json"), 1):
        task, group = row.get("task"), row.get("group")
        if not isinstance(task, str) or not isinstance(group, str) or not group:
            raise DataError(f'{path}: row {number}: expected {{"task": "…", "group": "…"}}')
        if task in groups:
            raise DataError(f"{path}: row {number}: task {task!r} a second time")
        groups[task] = group
    return groups
