"""Benchmark sets as tasks: their rows from the Hugging Face hub or a local copy, then records by their definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from mmkit import images
from mmkit.errors import DataError, MmkitError, UnavailableError, UsageError
from mmkit.records import Record, made_id
from mmkit.streams import Dropped, NamedRows, Row, each, inline
from mmkit.streams.rows import Stage
from mmkit.tasks.benchmarks import Benchmark
from mmkit.tasks.benchmarks.rows import to_records, why_dropped

_TABLES = {".parquet": "parquet", ".arrow": "arrow"}


def tasks_of(benchmark: Benchmark, image_root: str | None = None) -> Stage:
    """A stage that takes a set's own rows (kind "json") and gives tasks; rows that belong to none are dropped.

    `image_root` is asked for an image only where a box needs its size. Raises UsageError for an unsupported set.
    """
    if benchmark.unsupported:
        raise UsageError(f"{benchmark.name} is not supported: {benchmark.unsupported}")

    def size_of(image: Mapping[str, Any]) -> tuple[int, int]:
        return images.load(image, image_root).rgb().size

    def change(row: Row) -> Iterable[Row] | Dropped:
        raw = row.raw if row.raw is not None else orjson.dumps(row.record, default=inline.as_any_json)
        found = to_records(benchmark, row.record, made_id(raw, row.line), size_of)
        if not found:
            return Dropped(row, why_dropped(benchmark, row.record))
        return [row.replaced(record) for record in found]

    return each(change)


def inputs_of(benchmark: Benchmark, inputs: Sequence[str], split: str | None) -> list[str | NamedRows]:
    """What a run reads for a benchmark: the hub set where no input is named, else the copies that are.

    A directory is a copy of the hub set and has splits; so has the hub; files are read whole. Raises UsageError for
    a split where there is none, and what `rows_of` raises.
    """
    directories = [name for name in inputs if name and Path(name).is_dir()]  # "" is no "."
    if not inputs or inputs == directories[:1]:
        return [rows_of(benchmark, split or benchmark.split, *directories)]
    if directories:
        raise UsageError(f"{directories[0]}: a directory is read alone, as a copy of the set")
    if split is not None:
        raise UsageError("--split picks from the hub's set or a directory with a copy of it; files are read whole")
    return [_table(benchmark, name) if _is_table(name) else name for name in inputs]


def rows_of(benchmark: Benchmark, split: str | None, directory: str | None = None) -> NamedRows:
    """The rows of a split as the set has them, streamed, images undecoded; class labels by their names.

    A label stays a number where the definition says what becomes of it. Raises UsageError for a split that the set
    does not have, UnavailableError where the hub's set cannot be had.
    """
    if split is None:
        raise UsageError(f"{benchmark.name} has no split that is evaluated; name one by --split")
    if directory is not None:
        return NamedRows(directory, _copied_rows(benchmark, split, directory))
    if benchmark.hub is None:
        raise UsageError(f"{benchmark.name} is not on the hub; name a local copy. {benchmark.notes or ''}".rstrip())
    if split not in benchmark.splits:
        raise UsageError(f"{benchmark.name} has no split {split!r}; it has: {', '.join(benchmark.splits)}")
    return NamedRows(benchmark.hub, _hub_rows(benchmark, split))


def _hub_rows(benchmark: Benchmark, split: str) -> Iterator[Record]:
    def failed(error: Exception) -> MmkitError:
        return UnavailableError(
            f"{benchmark.hub} cannot be had from the Hugging Face hub ({_first_line(error)}); "
            f"with a local copy: mmkit convert --benchmark {benchmark.name} DIR"
        )

    config = benchmark.config and benchmark.config.replace("{split}", split)
    return _rows(benchmark, lambda load: load(benchmark.hub, config, split=split, streaming=True), failed)


def _copied_rows(benchmark: Benchmark, split: str, directory: str) -> Iterator[Record]:
    def failed(error: Exception) -> MmkitError:
        return DataError(f"{directory}: {_first_line(error)}")

    def load_copy(load: Callable[..., Any]) -> Any:
        import datasets

        config = benchmark.config and benchmark.config.replace("{split}", split)
        known = datasets.get_dataset_config_names(directory)
        return load(directory, config if config in known else None, split=split, streaming=True)

    return _rows(benchmark, load_copy, failed)


def _is_table(name: str) -> bool:
    return Path(name).suffix in _TABLES and Path(name).exists()


def _table(benchmark: Benchmark, path: str) -> NamedRows:
    """A Parquet or Arrow file through `datasets`, which knows the names of its class labels."""

    def failed(error: Exception) -> MmkitError:
        return DataError(f"{path}: {_first_line(error)}")

    kind = _TABLES[Path(path).suffix]
    return NamedRows(
        path, _rows(benchmark, lambda load: load(kind, data_files=[path], split="train", streaming=True), failed)
    )


def _rows(
    benchmark: Benchmark, load: Callable[[Callable[..., Any]], Any], failed: Callable[[Exception], MmkitError]
) -> Iterator[Record]:
    """The rows of what `load` makes of `datasets.load_dataset`; what goes wrong there is what `failed` says."""
    import datasets

    datasets.disable_progress_bars()
    try:
        found = load(datasets.load_dataset).decode(False)
        raw = {column for source in benchmark.fields.values() if source.takes_raw for column in source.columns}
        named = {column: feature for column, feature in (found.features or {}).items() if column not in raw}
        for row in found:
            yield {column: _by_name(named.get(column), value) for column, value in row.items()}
    except Exception as error:  # the hub's client, the network and the parsers raise errors of many kinds
        raise failed(error) from error


def _by_name(feature: Any, value: Any) -> Any:
    """The value with class labels as their names, -1 (no label) as nothing."""
    import datasets

    if isinstance(feature, datasets.ClassLabel) and isinstance(value, int):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(feature, datasets.List) and isinstance(value, list):
        return [_by_name(feature.feature, item) for item in value]
    return value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
