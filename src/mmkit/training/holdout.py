"""Which rows are kept for validation. No torch here."""

from __future__ import annotations

import os.path
from collections.abc import Iterable

from mmkit.seeds import uniform
from mmkit.training.samples import Sample


class Holdout:
    """Decides by (seed, image), or (seed, id) for a row without an image: no image is on both sides.

    Rows that share an image, directly or through others, go together, for which `samples` are read once beforehand.
    Memory grows with the images of rows that have several.
    """

    def __init__(self, samples: Iterable[Sample], size: float, seed: int) -> None:
        self._size, self._seed = size, seed
        self._leader: dict[str, str] = {}
        for sample in samples:
            keys = _image_keys(sample)
            for other in keys[1:]:
                first, second = sorted((self._find(keys[0]), self._find(other)))
                self._leader[second] = first

    def holds(self, sample: Sample) -> bool:
        """Whether the row is kept for validation: about `size` of them are."""
        keys = _image_keys(sample)
        key, purpose = (self._find(keys[0]), "image") if keys else (sample.id, "id")
        return uniform(self._seed, key, f"finetune.validation.{purpose}") < self._size

    def _find(self, key: str) -> str:
        """The first, by name, of the images that go together with this one."""
        while (leader := self._leader.get(key, key)) != key:
            self._leader[key] = self._leader.get(leader, leader)  # halve the way for the next one
            key = leader
        return key


def _image_keys(sample: Sample) -> list[str]:
    return [os.path.normpath(str(reference["path"])) for reference in sample.images if reference.get("path")]
