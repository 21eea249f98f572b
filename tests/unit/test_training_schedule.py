"""The learning rate is a pure function with known answers."""

from __future__ import annotations

import pytest

from mmkit.training import TuneConfig
from mmkit.training.schedule import lr_factor


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "linear", "warmup_steps": 2}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "warmup_steps": 0, "min_lr_ratio": 0.4}, [1, 0.9, 0.8, 0.7, 0.6, 0.5]),
        ({"schedule": "constant", "warmup_steps": 3}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ({"schedule": "cosine", "warmup_ratio": 0.3}, [0.5, 1, 1, 0.8535534, 0.5, 0.1464466]),
        ({"schedule": "cosine", "warmup_steps": 0, "min_lr_ratio": 1.0}, [1] * 6),
    ],
)
def test_the_learning_rate_follows_the_schedule(settings: dict[str, object], expected: list[float]) -> None:
    config = TuneConfig(**settings)  # type: ignore[arg-type]
    assert [lr_factor(step, 6, config) for step in range(6)] == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_only_rises() -> None:
    factors = [lr_factor(step, 3, TuneConfig(warmup_steps=10)) for step in range(3)]
    assert factors == pytest.approx([0.1, 0.2, 0.3])
