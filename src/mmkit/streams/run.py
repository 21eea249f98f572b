"""A run: rows in, a stage, rows out, and the account of every row."""

from __future__ import annotations

import math
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkit import console
from mmkit.errors import DataError, LimitError, MmkitError, UsageError
from mmkit.records import Record
from mmkit.streams import sinks
from mmkit.streams.journal import BackgroundSync, Checkpoint, Journal
from mmkit.streams.rows import Check, Dropped, Each, Kept, Rejected, Result, Row, Stage, Used, Withdrawn
from mmkit.streams.sources import Format, NamedRows, Wanted, format_of, read

_CHECKPOINT_EVERY_S = 0.5
_RATE_FROM_ROWS = 100
STDOUT = "-"


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What every command that streams records takes from its command line."""

    inputs: Sequence[str | NamedRows] = ()
    output: str | None = None
    from_format: Format | None = None
    to_format: Format | None = None
    rejects: str | None = None
    dropped: str | None = None
    max_reject_rate: float | None = None
    limit: int | None = None
    shard: tuple[int, int] | None = None


@dataclass(slots=True)
class Summary:
    """How many rows came in and what became of them; `written` counts rows out, where one gives several or none."""

    read: int = 0
    kept: int = 0
    written: int = 0
    dropped: int = 0
    rejected: int = 0
    resumed_at: int = 0
    duration_s: float = 0.0
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The part that a checkpoint holds."""
        return {
            "read": self.read,
            "kept": self.kept,
            "written": self.written,
            "dropped": self.dropped,
            "rejected": self.rejected,
        }

    def line(self) -> str:
        """One line for a person."""
        went_on = f" (went on at row {self.resumed_at:,})" if self.resumed_at else ""
        notes = "".join(f"; {note}" for note in self.notes)
        made = "" if self.written == self.kept else f" (as {self.written:,} rows out)"
        return (
            f"{self.read:,} rows in{went_on}, {self.kept:,} kept{made}, {self.dropped:,} dropped, "
            f"{self.rejected:,} rejected, {console.seconds(self.duration_s)}{notes}"
        )


def run(
    stage: Stage,
    options: StreamOptions,
    *,
    command: str,
    identity: Mapping[str, Any] | None = None,
    window: int = 1,
    kind: Check = "record",
    resumable: bool = True,
    wanted: Wanted | None = None,
) -> Summary:
    """Read rows, hand them to `stage`, write what it gives back, and account for every row.

    `identity` holds the arguments that decide the output's bytes: a killed run goes on only if they are the same.
    `window` is how many rows the stage treats as one batch (an engine's window): checkpoints lie between batches.
    `resumable` is false for a stage whose output is not a row-by-row matter (a score over all rows).
    `wanted` says of a position whether the stage looks at its row: one that it drops anyway need not be parsed. It is
    not asked where a `--dropped` file takes such rows.
    Raises what the first rejected row says if no `--rejects` file takes it, LimitError when more rows are rejected
    than `max_reject_rate` allows, and RuntimeError (a bug) if a row was not accounted for.
    """
    wanted = wanted if options.dropped is None else None
    return _Run(options, command, dict(identity or {}), window, kind, resumable, wanted).go(stage)


class _Run:
    def __init__(
        self,
        options: StreamOptions,
        command: str,
        identity: dict[str, Any],
        window: int,
        kind: Check,
        resumable: bool,
        wanted: Wanted | None,
    ) -> None:
        self._options, self._command, self._window, self._kind = options, command, window, kind
        self._wanted = wanted
        self._summary = Summary()
        self._unread: deque[Rejected] = deque()  # rows that could not be read, until their turn in the output comes
        self._handed: deque[int] = deque()  # positions of the rows that the stage has not answered for yet
        self._last_position, self._last_crc = -1, 0  # of the row answered for last
        self._last_settled = -1
        self._started = time.monotonic()
        self._next_checkpoint = self._started + _CHECKPOINT_EVERY_S
        _require_distinct(options)
        self._target = _regular_target(options.output)
        self._journal: Journal | None = None
        self._resume_from = Checkpoint()
        self._keeps_checkpoints = resumable and self._target is not None
        if self._target is not None:
            same = {
                "command": command,
                "inputs": [str(name) for name in options.inputs],
                "limit": options.limit,
                "shard": options.shard,
            }
            self._journal = Journal(self._target, {**same, **identity})
            self._sync = BackgroundSync(self._journal.part)
            sides = {"rejected": options.rejects, "dropped": options.dropped}
            self._resume_from = self._journal.last_checkpoint({n: Path(p) for n, p in sides.items() if p is not None})

    def go(self, stage: Stage) -> Summary:
        start = self._resume_from
        for name, count in start.counts.items():
            setattr(self._summary, name, count)
        self._summary.resumed_at = start.position
        try:
            with ExitStack() as stack:
                self._open_outputs(stack)
                stack.enter_context(sinks.stdout_on_stderr())
                try:
                    if isinstance(stage, Each):
                        self._row_by_row(stage)
                    else:
                        self._stream(stage)
                    self._check_rate(from_rows=1)
                    self._sink.close()
                except BaseException:
                    self._give_up()
                    raise
            if self._journal is not None and self._target is not None:
                self._sync.wait()
                sinks.finalise(self._journal.part, self._target, self._target_format())
                self._journal.finish()
        except OSError as error:
            full = sinks.full_disk(error, self._options.output)
            if full is not None:
                raise full from None
            raise
        self._summary.duration_s = time.monotonic() - self._started
        return self._summary

    def _target_format(self) -> Format:
        fmt = self._options.to_format or format_of(str(self._target)) or "jsonl"
        if fmt == "parquet" and str(self._target).endswith((".gz", ".zst")):
            raise UsageError(f"-o {self._target}: Parquet is compressed inside; name it .parquet")
        return fmt

    def _open_outputs(self, stack: ExitStack) -> None:
        try:
            self._open_sides_and_sink(stack)
        except OSError as error:
            if isinstance(error, BrokenPipeError) or sinks.full_disk(error, None):
                raise
            raise UsageError(f"{error.filename}: cannot be written: {error.strerror}") from None

    def _open_sides_and_sink(self, stack: ExitStack) -> None:
        options, lengths = self._options, self._resume_from.lengths
        self._rejects = _side_file(stack, options.rejects, lengths.get("rejected", 0))
        self._dropped = _side_file(stack, options.dropped, lengths.get("dropped", 0))
        if self._journal is not None:
            self._sink: sinks.Sink = sinks.to_part(self._journal.part, lengths.get("output", 0), self._target_format())
            self._journal.open(self._resume_from)
            stack.callback(self._journal.close)
        elif options.output in (None, STDOUT):
            self._sink = sinks.to_stdout(options.to_format)
        else:
            self._sink = sinks.to_device(Path(options.output or ""))

    def _row_by_row(self, stage: Each) -> None:
        """Rows through a stage that answers for each at once: none is ever under way, so none can go missing."""
        function, begin, keep = stage.function, self._begin_row, self._keep
        for row in self._input():
            begin(row.position, row.crc)
            if isinstance(row, Rejected):
                self._reject(row)
                continue
            try:
                result = function(row)
            except MmkitError as error:
                self._reject(Rejected.of(row, error))
                continue
            if isinstance(result, Row):
                keep(result, True)
            elif isinstance(result, Dropped):
                self._drop(result)
            else:
                for number, out in enumerate(result):
                    keep(out, number == 0)
        stage.finish()

    def _stream(self, stage: Stage) -> None:
        """Rows through a stage that may have many under way; every one of them must be answered for, in order."""
        for outcome in stage(self._rows()):
            if isinstance(outcome, Result):
                self._finish_rows()  # a last row that is bad ends a strict run before a figure without it comes out
                self._keep(outcome.row, False)
            elif isinstance(outcome, Withdrawn):
                self._finish_rows()
                self._withdraw(outcome)
            else:
                self._take(outcome)
        self._finish_rows()

    def _finish_rows(self) -> None:
        if self._handed:
            raise RuntimeError(f"{self._command}: {len(self._handed)} rows are not accounted for")
        self._settle_unread()

    def _input(self) -> Iterator[Row | Rejected]:
        """The rows of the input that are this run's."""
        options, start = self._options, self._resume_from.position
        rows = read(
            options.inputs,
            fmt=options.from_format,
            kind=self._kind,
            start=start,
            checksum=self._journal is not None,
            wanted=self._wanted,
        )
        if start:
            self._require_same_input(next(rows, None), start)
        if options.shard is None and options.limit is None:
            return rows
        index, count = options.shard or (0, 1)
        return _part(rows, start, index, count, math.inf if options.limit is None else options.limit)

    def _rows(self) -> Iterator[Row]:
        """The rows that could be read, for the stage; the others wait for their turn."""
        for row in self._input():
            if isinstance(row, Rejected):
                self._unread.append(row)
                self._settle_unread()
            else:
                self._handed.append(row.position)
                yield row

    def _settle_unread(self) -> None:
        """Account for rows that could not be read as soon as no row before them is under way in the stage."""
        while self._unread and not self._handed:
            self._take_rejected(self._unread.popleft())

    def _require_same_input(self, row: Row | Rejected | None, start: int) -> None:
        if row is None or row.crc != self._resume_from.crc:
            output = self._options.output
            raise DataError(
                f"the input is not the one that {output} was begun with (its first {start:,} rows differ); "
                f"to start over: rm {output}.part {output}.journal"
            )

    def _answered(self, position: int) -> None:
        """The stage has come to the row: those before it that could not be read are due, and no row may be missing."""
        while self._unread and self._unread[0].position < position:
            self._take_rejected(self._unread.popleft())
        expected = self._handed.popleft() if self._handed else None
        if expected != position:
            raise RuntimeError(f"{self._command}: the stage answered for row {position}, not for {expected}")
        self._last_settled = position

    def _take(self, outcome: Kept | Used | Dropped | Rejected) -> None:
        if isinstance(outcome, Rejected):
            if outcome.position != self._last_settled:
                self._answered(outcome.position)
            self._take_rejected(outcome)
            return
        row = outcome.row
        if row.position != self._last_settled:
            self._answered(row.position)
        new = self._begin_row(row.position, row.crc)
        if isinstance(outcome, Kept):
            self._keep(row, new)
        elif isinstance(outcome, Dropped):
            self._drop(outcome)
        else:
            self._summary.kept += new

    def _keep(self, row: Row, new: bool) -> None:
        """Write a row out; `new` says that it is the first of its input row."""
        summary = self._summary
        try:
            self._sink.write(row)
        except DataError as error:
            summary.read += not new
            self._reject(Rejected.of(row, error))
            return
        summary.kept += new
        summary.written += 1

    def _drop(self, dropped: Dropped) -> None:
        self._summary.dropped += 1
        if self._dropped is not None:
            row = dropped.row
            self._dropped.write_line(account(self._command, row.source, row.line, dropped.reason, row.record))

    def _withdraw(self, withdrawn: Withdrawn) -> None:
        """Count a row that was kept as rejected."""
        self._summary.kept -= 1
        self._reject(Rejected.of(withdrawn.row, withdrawn.error))

    def _take_rejected(self, rejected: Rejected) -> None:
        new = self._begin_row(rejected.position, rejected.crc)
        self._summary.read += not new  # what came out of an input row beside others and failed counts for itself
        self._reject(rejected)

    def _reject(self, rejected: Rejected) -> None:
        self._summary.rejected += 1
        if self._rejects is None:
            # Escaped here, where it is one line for certain: a row's text may hold line breaks.
            reason = console.escape(str(rejected.error))
            raise type(rejected.error)(f"{rejected.source}:{rejected.line}: {reason}") from rejected.error
        reason = str(rejected.error)
        self._rejects.write_line(account(self._command, rejected.source, rejected.line, reason, rejected.record))
        self._check_rate(from_rows=_RATE_FROM_ROWS)

    def _check_rate(self, from_rows: int) -> None:
        limit, summary = self._options.max_reject_rate, self._summary
        if limit is not None and summary.read >= from_rows and summary.rejected > limit * summary.read:
            raise LimitError(
                f"{summary.rejected:,} of {summary.read:,} rows rejected, more than --max-reject-rate {limit:g} allows "
                f"(see {self._options.rejects})"
            )

    def _begin_row(self, position: int, crc: int) -> bool:
        """Called before an outcome is written; whether it is the row's first. Between windows a checkpoint may lie."""
        last = self._last_position
        if position <= last:
            return False
        if (
            self._keeps_checkpoints
            and position // self._window != last // self._window
            and last >= 0
            and time.monotonic() >= self._next_checkpoint
        ):
            self._save_checkpoint(last, self._last_crc)
        self._last_position, self._last_crc = position, crc
        self._summary.read += 1
        return True

    def _save_checkpoint(self, position: int, crc: int) -> None:
        journal = self._journal
        assert journal is not None
        lengths = {"output": self._sink.flush()}
        for name, side in (("rejected", self._rejects), ("dropped", self._dropped)):
            if side is not None:
                lengths[name] = side.flush()
        self._next_checkpoint = time.monotonic() + _CHECKPOINT_EVERY_S
        self._sync.start()
        journal.add(Checkpoint(position + 1, crc, lengths, self._summary.counts()))

    def _give_up(self) -> None:
        """Leave what a later run can go on from, and nothing if there is nothing."""
        self._sink.abandon()  # closing it hands over the rows before the one that failed
        if self._journal is None:
            return
        done = self._journal.last_position
        if done:
            console.say(f"mmkit {self._command}: the first {done:,} rows are kept; the same command goes on from there")
        else:
            self._journal.finish()


def _part(rows: Iterator[Row | Rejected], start: int, index: int, count: int, limit: float) -> Iterator[Row | Rejected]:
    """Every `count`th row, from row `index`, before position `limit`."""
    if limit <= start:
        return
    for row in rows:
        if row.position % count == index:
            yield row
        if row.position + 1 >= limit:  # before another row is asked for, which a live pipe may not have yet
            return


def account(command: str, source: str, line: int, reason: str, record: Record | str) -> bytes:
    """A line of a rejects or dropped file."""
    return sinks.encode_part({"command": command, "source": source, "line": line, "reason": reason, "record": record})


def _side_file(stack: ExitStack, path: str | None, length: int) -> sinks.LineSink | None:
    if path is None:
        return None
    side = sinks.LineSink(sinks.reopened(Path(path), length), length)
    stack.callback(side.close)
    return side


def _regular_target(output: str | None) -> Path | None:
    """The file to write in one step at the end; None for stdout, devices and pipes, which are written as rows come."""
    if output in (None, STDOUT):
        return None
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"-o {output}: is a directory; name a file")
    return None if path.exists() and not path.is_file() else path


def _require_distinct(options: StreamOptions) -> None:
    """Refuse file names under which one file would overwrite another, or feed on itself."""
    files = [name for name in options.inputs if isinstance(name, str)]
    named = [(option, path) for option, path in _outputs(options) if path != STDOUT]
    for i, (option, path) in enumerate(named):
        for other, other_path in named[:i]:
            if _same_file(path, other_path):
                raise UsageError(f"{other} and {option} name the same file: {path}")
        if option != "-o":  # a finished -o FILE takes its input's place in one step
            for name in files:
                if _same_file(path, name):
                    raise UsageError(f"{option} {path} is an input, too, and would be overwritten")
    if options.output in (None, STDOUT) and sys.stdout is not None:
        out = os.fstat(sys.stdout.fileno())
        for name in files:
            if stat.S_ISREG(out.st_mode) and Path(name).exists() and os.path.samestat(out, Path(name).stat()):
                raise UsageError(f"{name} is both input and stdout, which destroys it; use -o {name}")


def _outputs(options: StreamOptions) -> list[tuple[str, str]]:
    pairs = (("-o", options.output), ("--rejects", options.rejects), ("--dropped", options.dropped))
    return [(option, path) for option, path in pairs if path is not None]


def _same_file(one: str, other: str) -> bool:
    regular = not Path(one).exists() or Path(one).is_file()  # any number of outputs may go to /dev/null
    return regular and Path(one).resolve() == Path(other).resolve()
