"""A run's orders on disk, in OUT/checkpoints: what is trained on which rows, how, and from where.

Written once, before anything is trained, by the process that the user started; read by every process that trains. So a
run on many devices, one that goes on after a stop and one on several nodes all begin with the same files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import orjson

from mmkit import console, errors
from mmkit.errors import DataError, LimitError, MmkitError, UsageError
from mmkit.images import resolve
from mmkit.training.config import TuneConfig
from mmkit.training.holdout import Holdout
from mmkit.training.plan import RowFacts
from mmkit.training.samples import Refused, Sample

if TYPE_CHECKING:
    from mmkit.training.rows import Rows

FOLDER = "checkpoints"
"""What holds the job and its checkpoints, in OUT, until the run has ended."""

RUN_FILE = "run.json"
"""What a finished run leaves beside its weights."""

LOG_FILE = "log.jsonl"
"""A row for each step and each validation: in FOLDER while the run lasts, and then in OUT."""

_LOCK_FILE = ".mmkit.lock"
"""In FOLDER: locked by the process whose run it is. It also tells our folder from one that somebody else called so."""

_BLOCKS, _BLOCK_BYTES = 64, 2**16

_MAY_DIFFER = frozenset({"workers", "check_rows", "cache_mb", "save_every", "report_to", "merge"})
"""Settings that change no figure of the run: it may go on with others."""

OnRefused = Callable[[Refused], None]
"""Takes what cannot be trained on."""


@dataclass(frozen=True, slots=True)
class Fact(RowFacts):
    """What is known of a row that can be trained on: the sample it is, and whether it is kept for validation."""

    index: int
    held_out: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What a run is to do. `world` processes share it; `model_files` are the model's files by name, with a hash.

    `task_shares` are the proportions of `config.task_sampling` "weights". `data_sha256` is that of the samples,
    `num_rejected` counts those that cannot be trained on. `command` is what the user typed, `task_group` the `name` and
    the `tasks` of the group whose rows the samples are.
    """

    out: Path
    model: str
    config: TuneConfig
    world: int
    model_files: Mapping[str, str]
    task_shares: Mapping[str, float] | None
    data_sha256: str
    num_rejected: int
    command: tuple[str, ...] = ()
    task_group: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """Where job and checkpoints are."""
        return self.out / FOLDER

    def samples(self) -> StoredSamples:
        """The samples, read when they are wanted."""
        return StoredSamples(self.folder / "samples.jsonl")

    def facts(self) -> list[Fact]:
        """The rows that are trained on or held out."""
        with (self.folder / "rows.jsonl").open("rb") as lines:
            return [Fact(**orjson.loads(line)) for line in lines]

    def replace_files(self, staging: Path) -> None:
        """Put the job's files into their place, from the folder they were written to. Killed on the way, it leaves no
        job."""
        (self.folder / "job.json").unlink(missing_ok=True)
        for name in ("samples.jsonl", "rows.jsonl", "refused.jsonl"):
            (staging / name).replace(self.folder / name)
        self.write()

    def write(self) -> None:
        """Write the orders, the last of the job's files: without them there is no job."""
        wire = asdict(self) | {"out": None, "model": _absolute(self.model)}
        _replace(self.folder / "job.json", orjson.dumps(wire, option=orjson.OPT_INDENT_2))

    def differences(self, other: Job) -> list[str]:
        """What keeps this job from going on where `other` stopped, "lr: 1e-05 there, 2e-05 here"."""
        pairs: dict[str, tuple[Any, Any]] = {
            "model": (_absolute(other.model), _absolute(self.model)),
            "the model's files": _unlike(other.model_files, self.model_files),
            "processes": (other.world, self.world),
            "task shares": (other.task_shares, self.task_shares),
            "group": (_name(other.task_group), _name(self.task_group)),
            "training rows (sha256)": (other.data_sha256[:12], self.data_sha256[:12]),
        }
        theirs, mine = asdict(other.config), asdict(self.config)
        pairs |= {name: (theirs[name], mine[name]) for name in mine if name not in _MAY_DIFFER}
        return [f"{name}: {there!r} there, {here!r} here" for name, (there, here) in pairs.items() if there != here]


def _name(group: Mapping[str, Any] | None) -> str | None:
    return None if group is None else group["name"]


def read_job(out: Path) -> Job:
    """The job in OUT. Raises DataError where there is none."""
    path = out / FOLDER / "job.json"
    try:
        wire = orjson.loads(path.read_bytes())
        config = TuneConfig(**{**wire["config"], "report_to": tuple(wire["config"]["report_to"])})
        return Job(**{**wire, "out": out, "config": config, "command": tuple(wire["command"])})
    except FileNotFoundError:
        raise DataError(f"{out} holds no tuning job: {path} is not there") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the job of this version of mmkit: {error}") from None


def check_target(out: Path) -> None:
    """Raise UsageError unless `out` is absent, empty, or left by an earlier run, finished or not."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file, not a directory to write a model to")
    if any(out.iterdir()) and not _is_ours(out):
        raise UsageError(f"{out} holds files that no tuning run left there; choose another directory")
    if (out / FOLDER).exists() and not (out / FOLDER / _LOCK_FILE).exists():
        raise UsageError(f"{out / FOLDER} was not left there by a tuning run; choose another directory")


def _is_ours(out: Path) -> bool:
    if (out / FOLDER / _LOCK_FILE).exists():
        return True
    try:
        run = orjson.loads((out / RUN_FILE).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return False
    return isinstance(run, dict) and "data_sha256" in run


def refuse_none(refused: Refused) -> None:
    """An OnRefused for runs in which every row is to be trained on: the first one's error is raised."""
    raise refused.error


def write_samples(folder: Path, samples: Iterable[Sample | Refused], on_refused: OnRefused) -> tuple[str, int]:
    """Write the samples one a line. Gives their sha256, and the number of rows that were none.

    The sizes of image files are in it, so that other pictures under the same names are noticed; the places that rows
    and images were read from are not. Raises DataError where there are no samples.
    """
    digest, count, refused = hashlib.sha256(), 0, 0
    with full_disk_explained(folder), (folder / "samples.jsonl").open("wb") as file:
        for sample in samples:
            if isinstance(sample, Refused):
                on_refused(sample)
                refused += 1
                continue
            wire = sample.to_wire()
            file.write(orjson.dumps(wire) + b"\n")
            trained = [wire["record"].get(name) for name in ("id", "task", "messages", "images")]
            digest.update(orjson.dumps([*trained, sample.weight, _image_sizes(sample)]) + b"\n")
            count += 1
    if not count:
        raise DataError("there is no row to train on")
    return digest.hexdigest(), refused


def write_facts(folder: Path, rows: Rows, config: TuneConfig, on_refused: OnRefused) -> int:
    """Look at every sample, write what is known of those that can be trained on, and give the number of the others.

    With `config.check_rows` each is encoded; without, a length is guessed from its text, and a row that cannot be
    trained on ends the run when its turn comes. Raises DataError where nothing is left to train on.
    """
    from mmkit.training.rows import measure

    num_refused = num_trained = 0
    holdout = Holdout(rows.samples, config.val_size, config.seed) if config.val_size else None
    found = measure(rows, config.workers) if config.check_rows else guess(rows.samples)
    with (
        console.Progress("read rows") as progress,
        full_disk_explained(folder),
        (folder / "rows.jsonl").open("wb") as file,
        (folder / "refused.jsonl").open("wb") as refused,
    ):
        for index, fact in found:
            progress.advance(total=len(rows))
            if isinstance(fact, MmkitError):
                refused.write(orjson.dumps([index, type(fact).__name__, str(fact)]) + b"\n")
                on_refused(_refusal(rows.samples[index], fact))
                num_refused += 1
                continue
            held_out = holdout is not None and holdout.holds(rows.samples[index])
            wire = {**asdict(fact), "index": index, "held_out": held_out}
            file.write(orjson.dumps(wire) + b"\n")
            num_trained += not held_out
    if not num_trained:
        raise DataError("there is no row to train on: all are rejected or held out for validation")
    return num_refused


def refuse_again(folder: Path, samples: Sequence[Sample], on_refused: OnRefused) -> int:
    """Tell of the rows that `write_facts` refused, for a run that goes on; gives their number."""
    count = 0
    with (folder / "refused.jsonl").open("rb") as lines:
        for count, line in enumerate(lines, 1):  # noqa: B007 - the last one is the number of lines
            index, kind, message = orjson.loads(line)
            on_refused(_refusal(samples[index], getattr(errors, kind)(message)))
    return count


def _refusal(sample: Sample, error: MmkitError) -> Refused:
    return Refused(sample.where, sample.to_record(), error)


def guess(samples: Sequence[Sample]) -> Iterator[tuple[int, RowFacts]]:
    """What can be said of rows without encoding them: four characters are taken for a token. Good enough to put rows
    of like length together."""
    for index, sample in enumerate(samples):
        texts = (part.get("text") or "" for message in sample.messages for part in message["content"])
        length = sum(map(len, texts)) // 4 + 1
        yield index, RowFacts(id=sample.id, task=sample.task, length=length, has_image=bool(sample.images))


def files_of(model: str) -> dict[str, str]:
    """What a model's directory holds: of each file a hash of its size and of blocks spread over it. Nothing for a hub
    id."""
    return {path.name: _sampled_hash(path) for path in sorted(Path(model).glob("*")) if path.is_file()}


def _sampled_hash(path: Path) -> str:
    """A file of several GB is another one in all its parts, if it is another one."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_BLOCKS):
            file.seek(max(0, size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
            if size <= _BLOCK_BYTES:
                break
    return digest.hexdigest()[:16]


def _image_sizes(sample: Sample) -> list[int | None]:
    """Bytes of each image file; None where there is none."""
    sizes: list[int | None] = []
    for reference in sample.images:
        path = reference.get("path")
        in_a_file = isinstance(path, str) and not path.startswith("data:") and not reference.get("bytes")
        try:
            sizes.append(resolve(str(path), sample.image_root).stat().st_size if in_a_file else None)
        except (OSError, ValueError):
            sizes.append(None)
    return sizes


@contextmanager
def claimed(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Have FOLDER in `out` for this process alone, until the block or the process ends; it is made if need be.

    `shared`: with the other nodes of a run, which write the same there. Raises UsageError where another process is at
    work. A disk that knows no locks has none.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_FILE).open("wb") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another run is at work in {out}") from None
        except OSError:
            pass
        yield


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into one sentence."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise LimitError(f"cannot write to {folder}: {error.strerror or error}") from error


class StoredSamples(Sequence[Sample]):
    """The samples of a file by index, each read when it is asked for: a large set never lies in memory.

    Worker processes may share it: reading moves no file position.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._starts = [0]
        with path.open("rb") as lines:
            for line in lines:
                self._starts.append(self._starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._starts[index : index + 2]
        return Sample.from_wire(orjson.loads(os.pread(self._file.fileno(), end - start, start)))

    def __del__(self) -> None:
        self._file.close()


def remove(out: Path) -> None:
    """Take away a job and its checkpoints, and OUT where nothing else is in it.

    At once, by its name: a process that is killed on the way leaves no half of a job.
    """
    gone = out / f".{FOLDER}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    (out / FOLDER).rename(gone)
    shutil.rmtree(gone)
    if not any(out.iterdir()):
        out.rmdir()


def _unlike(there: Mapping[str, str], here: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What differs of two mappings."""
    return (
        {name: value for name, value in there.items() if here.get(name) != value},
        {name: value for name, value in here.items() if there.get(name) != value},
    )


def _absolute(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
