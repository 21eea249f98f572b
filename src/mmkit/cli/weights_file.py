"""Weight rows, as `--weights FILE` names them."""

from __future__ import annotations

from mmkit.errors import DataError


def read_task_weights(path: str) -> dict[str, float]:
    """The λ of each task in a file of rows with `task` and `weight`.

    Raises DataError, naming the row, for another form, a negative weight and a task that comes twice.
    """
    from mmkit.streams import read_records

    weights: dict[str, float] = {}
    for number, row in enumerate(read_records(path, kind="json"), 1):
        task, weight = row.get("task"), row.get("weight")
        if not isinstance(task, str) or isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise DataError(f'{path}: row {number}: expected {{"task": "…", "weight": 1.0}}')
        if task in weights:
            raise DataError(f"{path}: row {number}: task {task!r} a second time")
        weights[task] = float(weight)
    return weights
