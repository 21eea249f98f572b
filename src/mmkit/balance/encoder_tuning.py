"""A sentence encoder that has learned the style of the tasks' own instructions.

Source: INSTA (Lee et al. 2024, arXiv 2404.16418), which aligns its encoder with the instructions of the tasks to choose
from; MINT (arXiv 2506.02308v1, section 4.1.3) calls that supervised contrastive learning. Deviation: schedule and
number of pairs, which MINT does not give.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

from mmkit import seeds
from mmkit.errors import DataError

EPOCHS, LEARNING_RATE, BATCH_SIZE = 1, 2e-5, 16


class Pair(NamedTuple):
    """Two instructions, and how alike they should be: 1 of one task, 0 of two."""

    one: str
    other: str
    similarity: float


def pairs(instructions: Mapping[str, Sequence[str]], seed: int = 0) -> list[Pair]:
    """For each instruction one of its own task, where there is another, and one of another task.

    Which ones is a function of (seed, task, text) and of the instructions, in whatever order they come. A text that
    several tasks share is never its own opposite. Raises DataError where there is nothing to learn: fewer than two
    tasks, or no task with two instructions.
    """
    found = sorted(_pairs({task: sorted(set(texts)) for task, texts in sorted(instructions.items())}, seed))
    if not {0.0, 1.0} <= {pair.similarity for pair in found}:
        raise DataError("an encoder is tuned on two tasks at least, one of them with two instructions or more")
    return found


def tuned(
    encoder: Any,
    instructions: Mapping[str, Sequence[str]],
    *,
    epochs: int = EPOCHS,
    lr: float = LEARNING_RATE,
    seed: int = 0,
) -> Any:
    """The SentenceTransformer `encoder`, changed in place: the squared error of the cosine of each of `pairs`.

    On a CPU the same every time. Raises DataError as `pairs`.
    """
    import tempfile

    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    learned = pairs(instructions, seed)
    columns = {
        "one": [pair.one for pair in learned],
        "other": [pair.other for pair in learned],
        "label": [pair.similarity for pair in learned],
    }
    shown = io.StringIO()  # bars and figures that ask for no terminal
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(shown), redirect_stderr(shown):
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=lr,
            warmup_steps=0.1,
            seed=seed,
            data_seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = SentenceTransformerTrainer(
            model=encoder, args=arguments, train_dataset=Dataset.from_dict(columns), loss=_loss(encoder)
        )
        trainer.train()
    return encoder.eval()


def _pairs(instructions: Mapping[str, Sequence[str]], seed: int) -> Iterator[Pair]:
    for task, texts in instructions.items():
        others = [text for other, theirs in instructions.items() if other != task for text in theirs]
        strangers = sorted(set(others) - set(texts))
        for text in texts:
            key = f"{task}\x1f{text}"
            if len(texts) > 1:
                siblings = [sibling for sibling in texts if sibling != text]
                yield Pair(text, seeds.pick(siblings, seed, key, "group.sibling"), 1.0)
            if strangers:
                yield Pair(text, seeds.pick(strangers, seed, key, "group.stranger"), 0.0)


def _loss(encoder: Any) -> Any:
    try:
        from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
    except ModuleNotFoundError:  # before 6.0
        from sentence_transformers.losses import CosineSimilarityLoss
    return CosineSimilarityLoss(encoder)
