"""Records become samples: λ, images that are read late, errors that name the record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmkit.errors import DataError, MissingInputError, UsageError
from mmkit.training import Sample, TuneConfig, sample_of

MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "Which colour?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
]


def record(**fields: object) -> dict[str, object]:
    return {"id": "r1", "messages": MESSAGES, **fields}


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, mmkit.training; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("fields", "task_weights", "default", "expected"),
    [
        ({}, None, None, 1.0),
        ({"weight": 0.5}, None, None, 0.5),
        ({"weight": None}, None, None, 1.0),
        ({"weight": 0}, None, None, 0.0),
        ({"task": "vqa"}, {"vqa": 2.0}, None, 2.0),
        ({"task": "vqa", "weight": 0.5}, {"vqa": 3.0}, None, 1.5),
        ({"task": "ocr"}, {"vqa": 3.0}, 0.25, 0.25),
        ({}, {"vqa": 3.0}, 0.25, 0.25),
        ({"task": "vqa"}, {"vqa": 0.0}, 0.25, 0.0),
    ],
)
def test_lambda_is_the_records_weight_times_its_tasks(fields, task_weights, default, expected) -> None:  # type: ignore[no-untyped-def]
    sample = sample_of(record(**fields), task_weights=task_weights, default_weight=default)
    assert sample.weight == expected


@pytest.mark.parametrize(
    ("fields", "task_weights", "words"),
    [
        ({"task": "ocr"}, {"vqa": 1.0}, "record 'r1' has task 'ocr', which has no weight .known tasks: vqa."),
        ({}, {"vqa": 1.0}, "record 'r1' has no task"),
        ({"weight": -1.0}, None, "record 'r1': weight -1.0"),
        ({"task": "vqa"}, {"vqa": float("inf")}, "record 'r1': weight inf"),
        ({"weight": 0.0, "task": "vqa"}, {"vqa": float("inf")}, "record 'r1': weight nan"),
        ({"messages": []}, None, "record 'r1': no messages"),
        ({"messages": None}, None, "record 'r1': no messages"),
    ],
)
def test_what_cannot_be_weighted_is_refused_by_name(fields, task_weights, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=words):
        sample_of(record(**fields), task_weights=task_weights)


def test_images_are_read_when_asked_for_and_a_missing_one_names_the_record(tmp_path: Path) -> None:
    sample = sample_of(record(images=[{"path": "no.png"}]), image_root=tmp_path)
    with pytest.raises(MissingInputError, match=r"record 'r1': image 'no.png' not found .*" + tmp_path.name):
        sample.load_images()
    (tmp_path / "no.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"record 'r1': image no\.png is empty"):
        sample.load_images()


def test_a_sample_without_images_loads_none() -> None:
    assert Sample(id="a", messages=tuple(MESSAGES)).load_images() == []


@pytest.mark.parametrize(
    "setting",
    [
        {"train": "half"},
        {"schedule": "step"},
        {"dtype": "float16"},
        {"device": "tpu"},
        {"batch_size": 0},
        {"accumulation": 0},
        {"epochs": 0},
        {"max_steps": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"warmup_ratio": 1.5},
        {"max_grad_norm": -1.0},
        {"seed": 2**32},
        {"workers": -1},
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        TuneConfig(**setting)  # type: ignore[arg-type]
