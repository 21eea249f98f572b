"""Which adapter answers a record: that of its task's group.

Source: MINT trains one model for each group of tasks and answers a task with its group's. Deviation: none.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping

import orjson

from mmkit.engines.cache import contents_of
from mmkit.errors import DataError, UsageError
from mmkit.records import Record

BASE = "base"
"""In the place of an adapter: the model itself."""

OTHER = "other"
"""In the place of a group: the tasks that have none, and the groups that are not named."""


class Route:
    """From a record's `task` over its group to an adapter, or to the model itself."""

    def __init__(self, groups: Mapping[str, str], adapters: Mapping[str, str], file: str) -> None:
        """`groups` gives the group of each task, as read from `file`; `adapters` the adapter of each group, or `BASE`;
        under `OTHER` that of all other tasks.

        Raises UsageError for a group that no task has, and for one without an adapter where there is no `OTHER`.
        """
        _require_match(groups, adapters, file)
        others = adapters.get(OTHER)
        chosen = {task: adapters.get(group, others) for task, group in groups.items()}
        self._adapter_of = {task: _name(adapter) for task, adapter in chosen.items() if adapter is not None}
        self._others = None if others is None else _name(others)
        self._file = file

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that an engine has to be opened with, each once."""
        names = [*self._adapter_of.values(), self._others]
        return tuple(dict.fromkeys(name for name in names if name))

    def adapter_of(self, record: Record) -> str:
        """The adapter that answers the record; "" is the model itself.

        Raises DataError for a task without a group where nothing answers for these.
        """
        task = record.get("task")
        adapter = self._adapter_of.get(task, self._others) if isinstance(task, str) else self._others
        if adapter is None:
            what = "no task, and so no group" if task is None else f"task {task!r} is in no group of {self._file}"
            raise DataError(f"{what}: add it there, or say who answers such rows, {OTHER}=DIR or {OTHER}={BASE}")
        return adapter

    def digest(self) -> str:
        """A hash of what goes where, and of what the adapters' files hold: a run that goes on with another one would be
        two runs."""
        held = [contents_of(name) for name in sorted(self.adapters)]
        content = orjson.dumps([self._adapter_of, self._others, held], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(content).hexdigest()[:16]


def parse_adapters(texts: Iterable[str]) -> dict[str, str]:
    """Adapters by group, from `GROUP=DIR[,GROUP=DIR…]`. Raises UsageError for another form and a group given twice."""
    adapters: dict[str, str] = {}
    for text in texts:
        for item in text.split(","):
            group, equals, adapter = (part.strip() for part in item.partition("="))
            if not (group and equals and adapter):
                raise UsageError(
                    f"--adapters {text}: expected GROUP=DIR, or GROUP={BASE} for the model itself; commas stand "
                    "between them, and in no name"
                )
            if group in adapters:
                raise UsageError(f"--adapters: group {group!r} is given twice")
            adapters[group] = adapter
    return adapters


def _require_match(groups: Mapping[str, str], adapters: Mapping[str, str], file: str) -> None:
    known = dict.fromkeys(groups.values())
    if OTHER in known:
        raise UsageError(
            f"{file}: a group is called {OTHER!r}, which --adapters keeps for tasks without one; rename it"
        )
    for group in adapters:
        if group != OTHER and group not in known:
            close = difflib.get_close_matches(group, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known) or 'none'}"
            raise UsageError(f"--adapters {group}: {file} has no group of that name; {hint}")
    if missing := [group for group in known if group not in adapters and OTHER not in adapters]:
        group = missing[0]
        raise UsageError(
            f"--adapters: nobody answers for group {group!r} of {file}; add {group}=DIR, "
            f"{group}={BASE} for the model itself, or {OTHER}=… for all that is not named"
        )


def _name(adapter: str) -> str:
    return "" if adapter == BASE else adapter
