"""A micro-batch: model inputs, labels, weights, and what the run wants to count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from mmkit.errors import DataError, MmkitError
from mmkit.training.loss import IGNORED
from mmkit.training.plan import MicroBatch, Place
from mmkit.training.rows import Row, Rows

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat, Encoded

Batch = dict[str, Any]
"""`inputs` (what the model's forward takes); `labels` (int64), `weights` (float64, the rows' own λ) and `tasks` (int64,
the number of the row's task), each (batch, length); `instructions`, token ids, one tensor a row (rows that are padding
included); `ids`; and the numbers of `text_tokens`, `image_tokens` and `loss_tokens`, padding not counted."""


class Collator:
    """Rows, padded on the right, as one Batch; or the error of the first row that could not be encoded.

    A row that is padding has no label and counts nothing. The error is a value here, because this may run in a worker
    process.
    """

    def __init__(self, chat: Chat, task_numbers: Mapping[str | None, int]) -> None:
        self._chat, self._task_numbers = chat, task_numbers

    def __call__(self, rows: Sequence[tuple[Row, bool]]) -> Batch | MmkitError:
        encoded: list[Encoded] = []
        for row, _ in rows:
            if row.encoded is None:
                assert row.error is not None
                return row.error
            encoded.append(row.encoded)
        try:
            inputs = self._chat.collate(encoded, padding_side="right")
        except DataError as error:
            return DataError(f"records {', '.join(repr(row.id) for row, _ in rows)}: {error}")
        shape = inputs["input_ids"].shape
        labels = torch.full(shape, IGNORED)
        weights, tasks = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.int64)
        counted = []
        for i, (row, is_padding) in enumerate(rows):
            if is_padding:
                continue
            sample = encoded[i]
            counted.append(sample)
            ids = torch.tensor(sample.input_ids)
            labels[i, : len(ids)] = ids.masked_fill(~torch.tensor(sample.in_loss), IGNORED)
            weights[i] = row.weight
            tasks[i] = self._task_numbers[row.task]
        num_tokens = sum(len(sample.input_ids) for sample in counted)
        num_image_tokens = sum(sample.num_image_tokens for sample in counted)
        return {
            "inputs": inputs,
            "labels": labels,
            "weights": weights,
            "tasks": tasks,
            "instructions": [torch.tensor(sample.instruction) for sample in encoded],
            "ids": [row.id for row, is_padding in rows if not is_padding],
            "text_tokens": num_tokens - num_image_tokens,
            "image_tokens": num_image_tokens,
            "loss_tokens": int((labels[:, 1:] != IGNORED).sum()),
        }


class Batches(DataLoader[Any]):
    """The micro-batches of one process, in the order of `planned`, whose places are indices into `indices`.

    A row's error is raised here, in the main process.
    """

    def __init__(
        self,
        rows: Rows,
        indices: Sequence[int],
        planned: Sequence[MicroBatch],
        collator: Collator,
        *,
        workers: int,
        pin_memory: bool,
    ) -> None:
        super().__init__(
            _Placed(rows, indices),
            batch_sampler=planned,  # type: ignore[arg-type]
            collate_fn=collator,
            num_workers=workers,
            pin_memory=pin_memory,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, MmkitError):
                raise batch
            yield batch


class _Placed(Dataset[tuple[Row, bool]]):
    """The row of a place, and whether it is padding."""

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self._rows, self._indices = rows, indices

    def __getitem__(self, place: Place) -> tuple[Row, bool]:
        return self._rows[self._indices[place.index]], place.padding
