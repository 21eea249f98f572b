"""Samples as the trainer reads them: encoded when first wanted, kept while there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset, get_worker_info

from mmkit.errors import DataError, LimitError, MissingInputError, MmkitError
from mmkit.training.samples import Sample

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat, Encoded


@dataclass(frozen=True, slots=True)
class Row:
    """An encoded sample. `error` stands in for it where it could not be encoded in a worker process: an exception
    raised there would lose its type and gain a traceback on the way."""

    id: str
    weight: float
    encoded: Encoded | None
    error: MmkitError | None = None


class Rows(Dataset[Row]):
    """Samples by index, encoded.

    Encoded samples are kept until `cache_bytes` are full and never pushed out: an epoch reads every row once, so an
    eviction would only trade one hit for another.
    """

    def __init__(self, samples: Sequence[Sample], chat: Chat, max_length: int | None, cache_bytes: int) -> None:
        self.samples = samples
        self._chat = chat
        self._max_length = max_length
        self._room = cache_bytes
        self._kept: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Row:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        sample = self.samples[index]
        if get_worker_info() is None:
            row = Row(sample.id, sample.weight, self._encode(sample))
            self.keep(index, row)
            return row
        try:
            return Row(sample.id, sample.weight, self._encode(sample))
        except MmkitError as error:
            return Row(sample.id, sample.weight, None, error)

    def keep(self, index: int, row: Row) -> None:
        """Remember an encoded row if there is room for it."""
        if row.encoded is None or index in self._kept:
            return
        size = _num_bytes(row.encoded)
        if size <= self._room:
            self._room -= size
            self._kept[index] = row

    def _encode(self, sample: Sample) -> Encoded:
        loaded = sample.load_images()
        try:
            encoded = self._chat.encode(sample.messages, loaded)
        except (DataError, MissingInputError, LimitError) as error:
            raise type(error)(f"{sample.label}: {error}") from None
        length = len(encoded.input_ids)
        if self._max_length is not None and length > self._max_length:
            raise DataError(
                f"{sample.label}: {length:,} tokens ({encoded.num_image_tokens:,} of images) are more than "
                f"max_length {self._max_length:,}"
            )
        return encoded


def check(rows: Rows, workers: int) -> None:
    """Encode every row once, so that one that cannot be trained on is an error before the first step.

    Raises the row's own DataError or MissingInputError, which names the record.
    """
    from torch.utils.data import DataLoader

    loader: DataLoader[Row] = DataLoader(rows, batch_size=None, num_workers=workers, collate_fn=_as_is)
    row: Row
    for index, row in enumerate(loader):
        if row.error is not None:
            raise row.error
        rows.keep(index, row)


def _as_is(row: Any) -> Any:
    return row


def _num_bytes(encoded: Encoded) -> int:
    """Roughly what a row takes: its tensors, and a list entry (8 bytes) a token and mask value."""
    tensors = sum(tensor.nbytes for tensor in encoded.image_inputs.values())
    return tensors + 16 * len(encoded.input_ids) + 512
