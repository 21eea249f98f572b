"""A micro-batch: model inputs, labels, weights, and what the run wants to count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler

from mmkit.errors import DataError, MmkitError
from mmkit.training.config import TuneConfig
from mmkit.training.loss import IGNORED
from mmkit.training.rows import Row, Rows
from mmkit.training.schedule import cut, epoch_order

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat, Encoded

Batch = dict[str, Any]
"""`inputs` (what the model's forward takes), `labels` and `weights` (batch, length), `ids`, and the numbers of
`text_tokens`, `image_tokens` and `loss_tokens`, padding not counted."""


class Collator:
    """Rows, padded on the right, as one Batch; or the error of the first row that could not be encoded.

    The error is a value here, because this may run in a worker process.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def __call__(self, rows: Sequence[Row]) -> Batch | MmkitError:
        encoded = []
        for row in rows:
            if row.encoded is None:
                assert row.error is not None
                return row.error
            encoded.append(row.encoded)
        ids = [row.id for row in rows]
        try:
            inputs = self._chat.collate(encoded, padding_side="right")
        except DataError as error:
            return DataError(f"records {', '.join(map(repr, ids))}: {error}")
        labels, weights = labels_and_weights(encoded, [row.weight for row in rows], inputs["input_ids"].shape[1])
        num_tokens = sum(len(sample.input_ids) for sample in encoded)
        num_image_tokens = sum(sample.num_image_tokens for sample in encoded)
        return {
            "inputs": inputs,
            "labels": labels,
            "weights": weights,
            "ids": ids,
            "text_tokens": num_tokens - num_image_tokens,
            "image_tokens": num_image_tokens,
            "loss_tokens": int((labels[:, 1:] != IGNORED).sum()),
        }


def labels_and_weights(
    encoded: Sequence[Encoded], weights: Sequence[float], length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (int64) and λ (float32), each (batch, length): IGNORED and 0 on padding."""
    labels = torch.full((len(encoded), length), IGNORED)
    lambdas = torch.zeros(len(encoded), length)
    for i, (sample, weight) in enumerate(zip(encoded, weights, strict=True)):
        num_tokens = len(sample.input_ids)
        ids = torch.tensor(sample.input_ids)
        labels[i, :num_tokens] = ids.masked_fill(~torch.tensor(sample.in_loss), IGNORED)
        lambdas[i, :num_tokens] = weight
    return labels, lambdas


class EpochBatches(Sampler[list[int]]):
    """The batches of one epoch after another: a permutation of the rows that depends on (seed, epoch, id) only."""

    def __init__(self, ids: Sequence[str], config: TuneConfig) -> None:
        self._ids, self._config = ids, config
        self.epoch = 0

    def __iter__(self) -> Iterator[list[int]]:
        yield from cut(epoch_order(self._ids, self._config.seed, self.epoch), self._config.batch_size)

    def __len__(self) -> int:
        return -(-len(self._ids) // self._config.batch_size)


class Batches(DataLoader[Row]):
    """The loader that the trainer iterates, once an epoch. A row's error is raised here, in the main process."""

    def __init__(self, rows: Rows, collator: Collator, config: TuneConfig, *, pin_memory: bool) -> None:
        self._epochs = EpochBatches([sample.id for sample in rows.samples], config)
        super().__init__(
            rows,
            batch_sampler=self._epochs,
            collate_fn=collator,
            num_workers=config.workers,
            pin_memory=pin_memory,
        )

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is."""
        self._epochs.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, MmkitError):
                raise batch
            yield batch
