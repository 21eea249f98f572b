"""Rows are encoded once and kept while there is room; what is too long is refused or loses text, never an image."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from training_kit import base, pictures, samples, turn

from mmkit.errors import DataError, MissingInputError, MmkitError
from mmkit.models.encoding import Chat
from mmkit.models.loading import load_chat
from mmkit.training import Sample
from mmkit.training.plan import RowFacts
from mmkit.training.rows import Rows, encode, fitted, measure

pytestmark = pytest.mark.tiny
__all__ = ["base", "pictures", "samples"]  # fixtures


@pytest.fixture(scope="module")
def chat(base: str) -> Chat:
    return load_chat(base)


def rows_of(samples: Sequence[Sample], chat: Chat, **options: Any) -> Rows:
    return Rows(samples, chat, **{"max_length": None, "overlong": "reject", "cache_bytes": 10**6, **options})


def moved(sample: Sample, folder: Path) -> Sample:
    """The sample, reading a copy of its image in `folder`."""
    shutil.copy(sample.image_root / sample.images[0]["path"], folder)  # type: ignore[operator]
    return dataclasses.replace(sample, image_root=folder)


def test_a_row_is_its_sample_encoded(samples: list[Sample], chat: Chat) -> None:
    rows = rows_of([dataclasses.replace(sample, task=f"task-{sample.id}") for sample in samples], chat)
    assert len(rows) == len(samples)
    for index, sample in enumerate(samples):
        row = rows[index]
        assert (row.id, row.task, row.weight, row.error) == (sample.id, f"task-{sample.id}", sample.weight, None)
        assert row.encoded is not None
        assert row.encoded.input_ids == chat.encode(sample.messages, sample.load_images()).input_ids


@pytest.mark.parametrize("workers", [0, 1])
def test_measuring_tells_the_facts_of_every_row_in_order(samples: list[Sample], chat: Chat, workers: int) -> None:
    longest = max(len(encode(sample, chat).input_ids) for sample in samples)
    given = [
        dataclasses.replace(samples[0], task="a"),
        dataclasses.replace(samples[1], images=({"path": "gone.png"},)),
        samples[2],
        dataclasses.replace(samples[3], messages=(turn("user", "hello ?"),), images=()),
        dataclasses.replace(samples[4], task="b"),
        dataclasses.replace(samples[0], messages=(turn("user", "hello ?"), turn("assistant", "red " * longest))),
    ]
    found = list(measure(rows_of(given, chat, max_length=longest), workers))
    assert [index for index, _ in found] == [0, 1, 2, 3, 4, 5]
    facts = {index: fact for index, fact in found if isinstance(fact, RowFacts)}
    assert facts == {
        0: RowFacts("row-0", "a", len(encode(given[0], chat).input_ids), False),
        2: RowFacts("row-2", None, len(encode(given[2], chat).input_ids), True),
        4: RowFacts("row-4", "b", len(encode(given[4], chat).input_ids), True),
    }
    errors = {index: error for index, error in found if isinstance(error, MmkitError)}
    assert [type(error) for error in errors.values()] == [MissingInputError, DataError, DataError]
    for (_, error), words in zip(errors.items(), ("gone.png", "no assistant turn", "more than"), strict=True):
        assert words in str(error)
    assert all(f"record '{given[index].id}'" in str(error) for index, error in errors.items())


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_measured_is_not_encoded_again(
    samples: list[Sample], chat: Chat, workers: int, tmp_path: Path
) -> None:
    """A row that is kept outlives its image file; one that found no room is read again."""
    sample = moved(samples[1], tmp_path)
    roomy, full = rows_of([sample], chat), rows_of([sample], chat, cache_bytes=10**4)
    for rows in (roomy, full):
        assert [type(fact) for _, fact in measure(rows, workers)] == [RowFacts]
    (tmp_path / "blue.png").unlink()
    kept = roomy[0].encoded
    assert kept is not None and not any(tensor.is_shared() for tensor in kept.image_inputs.values())
    assert full[0].encoded is None and isinstance(full[0].error, MissingInputError)


class Lazy(Sequence[Sample]):
    """Samples made when they are asked for, as from a file."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples, self.asked = samples, list[int]()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        self.asked.append(index)
        return dataclasses.replace(self.samples[index])

    def __iter__(self) -> Iterator[Sample]:
        raise AssertionError("reads all samples")


def test_samples_are_looked_up_one_at_a_time(samples: list[Sample], chat: Chat) -> None:
    lazy = Lazy(samples)
    rows = rows_of(lazy, chat)
    assert lazy.asked == [] and rows[3].id == "row-3" and lazy.asked == [3]
    assert rows[3].id == "row-3" and lazy.asked == [3]
    assert len(list(measure(rows, 0))) == 8 and sorted(lazy.asked) == list(range(8))


@pytest.fixture(scope="module")
def conversation(samples: list[Sample]) -> Sample:
    """An image, then 3 learned words, then another image, then 4 learned words."""
    return dataclasses.replace(
        samples[1],
        images=samples[1].images * 2,
        messages=(
            turn("user", "what colour is it ?", image=True),
            turn("assistant", "red blue green"),
            turn("user", "say yes please", image=True),
            turn("assistant", "yes yes yes yes"),
        ),
    )


def test_a_row_that_is_too_long_is_refused_or_loses_text_from_its_end(conversation: Sample, chat: Chat) -> None:
    whole = encode(conversation, chat)
    length = len(whole.input_ids)
    unchanged = rows_of([conversation], chat, max_length=length)[0].encoded
    assert unchanged is not None and unchanged.input_ids == whole.input_ids
    refused = rows_of([conversation], chat, max_length=length - 1)[0]
    expected = f"record 'row-1': {length} tokens (18 of images) are more than max_length {length - 1}"
    assert refused.encoded is None and str(refused.error) == expected
    shortened = rows_of([conversation], chat, max_length=length - 3, overlong="shorten")[0].encoded
    assert shortened is not None
    assert shortened.input_ids == whole.input_ids[:-3] and shortened.in_loss == whole.in_loss[:-3]
    assert len(shortened.is_image) == length - 3 and shortened.num_image_tokens == 18
    assert shortened.image_inputs.keys() == whole.image_inputs.keys()
    assert chat.end_of_turn_id not in shortened.input_ids[-3:]  # the answer goes on: no end is taught where none is


def test_an_image_is_never_cut(conversation: Sample, chat: Chat) -> None:
    whole = encode(conversation, chat)
    last_of_image = max(i for i, is_image in enumerate(whole.is_image) if is_image)
    first_of_image = last_of_image - 8
    for max_length in (last_of_image, first_of_image, first_of_image - 5):
        with pytest.raises(DataError, match=r"^here: .* \(18 of images\) .* and an image lies where it would be cut$"):
            fitted(whole, max_length, "shorten", "here")
    assert len(fitted(whole, last_of_image + 1, "shorten", "here").input_ids) == last_of_image + 1


def test_something_learned_must_be_left(conversation: Sample, chat: Chat) -> None:
    first_round = dataclasses.replace(conversation, messages=conversation.messages[:2], images=conversation.images[:1])
    whole = encode(first_round, chat)
    first_learned = whole.in_loss.index(True)
    with pytest.raises(DataError, match=r"^here: .* and no token that is learned would be left$"):
        fitted(whole, first_learned, "shorten", "here")
    assert sum(fitted(whole, first_learned + 1, "shorten", "here").in_loss) == 1
