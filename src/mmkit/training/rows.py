"""Samples as the trainer reads them: encoded when first wanted, kept while there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

from mmkit.errors import DataError, LimitError, MissingInputError, MmkitError
from mmkit.training.plan import RowFacts
from mmkit.training.samples import Sample

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat, Encoded

_BYTES_PER_TOKEN = 56
"""Of a list of ids: an entry and an integer object; of the two masks: an entry each."""


@dataclass(frozen=True, slots=True)
class Row:
    """An encoded sample, or the `error` for which it cannot be trained on.

    The error is a value: an exception that is raised in a worker process loses its type and gains a traceback.
    """

    id: str
    task: str | None
    weight: float
    encoded: Encoded | None
    error: MmkitError | None = None


class Rows(Dataset[Row]):
    """Samples by index, encoded, those longer than `max_length` tokens fitted as `overlong` says (see `fitted`).

    `samples` are looked up when they are wanted, so they may be read from a file. Encoded ones are kept until
    `cache_bytes` are full and never pushed out: an epoch reads every row once, so an eviction would only trade one hit
    for another.
    """

    def __init__(
        self, samples: Sequence[Sample], chat: Chat, *, max_length: int | None, overlong: str, cache_bytes: int
    ) -> None:
        self.samples = samples
        self._chat = chat
        self._max_length, self._overlong = max_length, overlong
        self._room = cache_bytes
        self._kept: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Row:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        row = self._encode(self.samples[index])
        if get_worker_info() is None:  # a worker's copy would be nobody's
            self.keep(index, row)
        return row

    def keep(self, index: int, row: Row) -> None:
        """Remember an encoded row if there is room for it."""
        if row.encoded is None or index in self._kept:
            return
        size = _num_bytes(row.encoded)
        if size <= self._room:
            self._room -= size
            self._kept[index] = row

    def _encode(self, sample: Sample) -> Row:
        row = Row(sample.id, sample.task, sample.weight, None)
        try:
            encoded = encode(sample, self._chat)
            return replace(row, encoded=fitted(encoded, self._max_length, self._overlong, sample.label))
        except (DataError, MissingInputError, LimitError) as error:
            return replace(row, error=error)


def encode(sample: Sample, chat: Chat) -> Encoded:
    """All of a sample as the model would read it.

    Raises DataError where it cannot be trained on, MissingInputError where an image is not there and LimitError where
    one is too large, all of them naming the record.
    """
    images = sample.load_images()
    try:
        return chat.encode(sample.messages, images)
    except (DataError, MissingInputError, LimitError) as error:
        raise type(error)(f"{sample.label}: {error}") from None


def fitted(encoded: Encoded, max_length: int | None, overlong: str, label: str) -> Encoded:
    """The sample, cut to `max_length` tokens where `overlong` is "shorten" and it is longer.

    Tokens go from the end. Raises DataError, beginning with `label`, where a sample is longer and `overlong` is
    "reject", where a token of an image would go, or where no token that is learned would be left.
    """
    length = len(encoded.input_ids)
    if max_length is None or length <= max_length:
        return encoded
    of_images = f" ({encoded.num_image_tokens:,} of images)" if encoded.num_image_tokens else ""
    too_long = f"{label}: {length:,} tokens{of_images} are more than max_length {max_length:,}"
    if overlong == "reject":
        raise DataError(too_long)
    if any(encoded.is_image[max_length:]):
        raise DataError(f"{too_long}, and an image lies where it would be cut")
    if not any(encoded.in_loss[1:max_length]):  # nothing stands before the first token to predict it from
        raise DataError(f"{too_long}, and no token that is learned would be left")
    return replace(
        encoded,
        input_ids=encoded.input_ids[:max_length],
        in_loss=encoded.in_loss[:max_length],
        is_image=encoded.is_image[:max_length],
    )


def measure(rows: Rows, workers: int) -> Iterator[tuple[int, RowFacts | MmkitError]]:
    """What planning must know of each row, by its index and in order, or why it cannot be trained on.

    Each row is encoded once, in `workers` processes beside this one (0: in this one), and kept while there is room.
    """
    loader: DataLoader[Row] = DataLoader(rows, batch_size=None, num_workers=workers, collate_fn=_as_is)
    row: Row
    for index, row in enumerate(loader):
        if row.encoded is None:
            assert row.error is not None
            yield index, row.error
            continue
        rows.keep(index, _unshared(row) if workers else row)
        yield index, RowFacts(row.id, row.task, len(row.encoded.input_ids), bool(row.encoded.image_inputs))


def _unshared(row: Row) -> Row:
    """The row in this process' own memory. A tensor from a worker holds an open file, of which there may be few."""
    assert row.encoded is not None
    images = {name: tensor.clone() for name, tensor in row.encoded.image_inputs.items()}
    return replace(row, encoded=replace(row.encoded, image_inputs=images))


def _as_is(row: Any) -> Any:
    return row


def _num_bytes(encoded: Encoded) -> int:
    """Roughly what a row takes."""
    tensors = sum(tensor.nbytes for tensor in encoded.image_inputs.values())
    return tensors + _BYTES_PER_TOKEN * len(encoded.input_ids) + 512
