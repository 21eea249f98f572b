"""Streams of records: JSONL, Arrow and Parquet in and out, with every row accounted for and every run resumable.

`run` is what a command calls: it reads rows, hands them to a stage, and writes what comes back.
"""

from mmkit.streams.rows import Dropped, Kept, Outcome, Rejected, Result, Row, Used, Withdrawn, each
from mmkit.streams.run import StreamOptions, Summary, run
from mmkit.streams.sources import NamedRows, read, read_records, read_rows

__all__ = [
    "Dropped",
    "Kept",
    "NamedRows",
    "Outcome",
    "Rejected",
    "Result",
    "Row",
    "StreamOptions",
    "Summary",
    "Used",
    "Withdrawn",
    "each",
    "read",
    "read_records",
    "read_rows",
    "run",
]
