"""Streams of records to statistics: the stages of `mmkit stats`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmkit.data.stats.describe import Facts, Statistics
from mmkit.errors import DataError, MmkitError
from mmkit.images import size_of
from mmkit.records import Record
from mmkit.streams import Outcome, Rejected, Result, Row, Used, each
from mmkit.streams.rows import Stage

if TYPE_CHECKING:
    from mmkit.models.token_counts import TokenCount, TokenCounter

Count = Callable[[Record], "TokenCount"]


def token_count(counter: TokenCounter, image_root: str | os.PathLike[str] | None = None) -> Count:
    """A function that counts a record's training tokens, of its images reading only the headers.

    It raises DataError where finetune would refuse the record, MissingInputError where an image is not there.
    """

    def count(record: Record) -> TokenCount:
        if not record.get("messages"):
            raise DataError("no messages to train on (mmkit instruct and mmkit compose make them)")
        sizes = [size_of(reference, image_root) for reference in record.get("images") or ()]
        return counter.count(record["messages"], sizes)

    return count


def summed(add: Callable[[Row], None], rows_of: Callable[[], Iterable[Mapping[str, Any]]]) -> Stage:
    """A stage that hands every row to `add`, which may reject it with an MmkitError, and ends with the rows that
    `rows_of` gives."""

    def stage(rows: Iterator[Row]) -> Iterator[Outcome]:
        for row in rows:
            try:
                add(row)
            except MmkitError as error:
                yield Rejected.of(row, error)
            else:
                yield Used(row)
        for result in rows_of():
            yield Result(Row(dict(result), 0, "", 0))  # it comes from no row

    return stage


def collect(
    statistics: Statistics,
    sets_of: Mapping[str, Sequence[str]],
    count: Count | None,
    rows_of: Callable[[], Iterable[Mapping[str, Any]]],
) -> Stage:
    """A stage that takes every record into `statistics` and ends with the rows that `rows_of` gives.

    `sets_of` names the sets that each input file belongs to; `count` None is a run without a model.
    """

    def add(row: Row) -> None:
        facts = Facts.of(row.record, None if count is None else count(row.record))
        for name in sets_of[row.source]:
            statistics.add(name, facts)

    return summed(add, rows_of)


def per_row(count: Count) -> Stage:
    """A stage that adds `num_tokens`, `num_image_tokens` and `num_loss_tokens` to every record."""

    def counted(row: Row) -> Row:
        tokens = count(row.record)
        numbers = {"num_tokens": tokens.total, "num_image_tokens": tokens.image, "num_loss_tokens": tokens.loss}
        return row.replaced({**row.record, **numbers})

    return each(counted)
