"""The records of a group."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from mmkit.errors import DataError, UsageError
from mmkit.streams import Dropped, Row, each
from mmkit.streams.rows import Stage

_LONGEST_NAME = 220  # bytes: of 255 some are for suffixes


class Members:
    """The records of one group, and how many were asked for: `num_own` in it, `num_others` in other groups.

    `groups` are the tasks' groups, `source` is where they come from. Raises UsageError for a group that is not there.
    """

    def __init__(self, group: str, groups: Mapping[str, str], source: str) -> None:
        self.group, self.tasks = group, sorted(task for task in groups if groups[task] == group)
        if not self.tasks:
            raise UsageError(f"{group!r} is no group of {source}; there are: {', '.join(sorted(set(groups.values())))}")
        self.num_own = self.num_others = 0
        self._groups, self._source = groups, source

    def hold(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is in the group. Raises DataError as `group_of`."""
        own = group_of(record, self._groups, self._source) == self.group
        self.num_own += own
        self.num_others += not own
        return own


def take(groups: Mapping[str, str], group: str, source: str) -> Stage:
    """A stage that keeps the records whose task is in `group`.

    A record without a task, or with one that `groups` does not name, is rejected; `source` is where the groups come
    from.
    """

    def keep(row: Row) -> Row | Dropped:
        own = group_of(row.record, groups, source)
        return row if own == group else Dropped(row, f"group {own}")

    return each(keep)


def group_of(record: Mapping[str, Any], groups: Mapping[str, str], source: str) -> str:
    """The group of a record's task. Raises DataError where it has no task, or `groups`, from `source`, does not name
    it."""
    task = record.get("task")
    if not task:
        raise DataError("no task, so no group")
    if task not in groups:
        raise DataError(f"task {task!r} is in no group of {source}")
    return groups[task]


def file_names(groups: Collection[str]) -> dict[str, str]:
    """A file's name, without suffix, for each group: what is not a letter, digit or harmless sign of it as %XX, so that
    no name leads out of a directory and no two are the same.

    Raises DataError for groups whose names differ in case alone, as some file systems have one file for both, and for
    one whose file's name would be longer than file systems take.
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for group in sorted(groups):
        found[group] = re.sub(r"[^\w.,+=@() -]|^[. -]|[. ]$", lambda sign: _percent_encoded(sign[0]), group)
        if len(found[group].encode()) > _LONGEST_NAME:
            raise DataError(f"group {group[:40] + '…'!r}: its name is too long for a file's; rename it")
        other = taken.setdefault(unicodedata.normalize("NFC", found[group].casefold()), group)
        if other != group:
            raise DataError(f"groups {other!r} and {group!r}: some file systems have one file for both; rename one")
    return found


def _percent_encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
