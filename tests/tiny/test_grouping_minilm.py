"""Groups by instructions with the real all-MiniLM-L6-v2, as it is and tuned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmkit.balance.encoder_tuning import tuned
from mmkit.cli.main import app
from mmkit.tasks import embedding

pytestmark = [pytest.mark.tiny, pytest.mark.usefixtures("minilm")]

INSTRUCTIONS = {
    "flickr30k": ["Describe the image.", "Write a caption.", "Caption this picture in one sentence."],
    "coco": ["Give a caption of the image.", "Describe what the picture shows."],
    "decimer": ["Write the SMILES string of the molecule.", "Give the molecule in SMILES.", "Which molecule is drawn?"],
    "chebi": ["Name the chemical compound.", "What is the structure of this molecule?"],
    "inaturalist": ["Which species of animal or plant is this?", "Name the species.", "Give the scientific name."],
    "birds": ["Which species of bird is this?"],
}
ALIKE = [("flickr30k", "coco"), ("decimer", "chebi"), ("inaturalist", "birds")]


def grouped(folder: Path, *options: str) -> dict[str, str]:
    """The group of each task, by the command."""
    records = [{"task": task, "instruction": text} for task, texts in INSTRUCTIONS.items() for text in texts]
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    app(
        ["group", str(folder / "in.jsonl"), "--by", "similarity", "-o", str(folder / "out.jsonl"), *options],
        standalone_mode=False,
    )
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return {row["task"]: row["group"] for row in rows}


@pytest.mark.parametrize("options", [[], ["--tune-encoder", "--tune-epochs", "2"]], ids=["as it is", "tuned"])
def test_tasks_that_ask_for_the_same_are_together(tmp_path: Path, options: list[str]) -> None:
    found = grouped(tmp_path, *options)
    assert found.keys() == INSTRUCTIONS.keys()
    assert set(found.values()) == {"group-1", "group-2", "group-3"}
    assert all(found[one] == found[other] for one, other in ALIKE)


def test_tuning_parts_the_tasks_and_gives_the_same_encoder_every_time() -> None:
    texts = [text for own in INSTRUCTIONS.values() for text in own]
    tasks = [task for task, own in INSTRUCTIONS.items() for _ in own]

    def contrast(vectors: np.ndarray) -> float:
        """How much more alike two instructions of one task are than two of different tasks."""
        cosines = vectors @ vectors.T
        same = np.array([[one == other for other in tasks] for one in tasks])
        pairs = ~np.eye(len(tasks), dtype=bool)
        return float(cosines[same & pairs].mean() - cosines[~same].mean())

    before = embedding.embed(texts)
    after, again = (embedding.embed(texts, tuned(embedding.load_encoder(), INSTRUCTIONS, epochs=3)) for _ in range(2))
    assert contrast(after) > contrast(before)
    assert np.array_equal(after, again)
    assert np.array_equal(embedding.embed(texts), before)  # the shared encoder is not the tuned one
