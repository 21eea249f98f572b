"""A sharded model learns what a whole one learns, with images on one process only; and goes on to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_kit import WORKERS, torchrun
from workers.sharding_worker import CASES, work

from mmkit.training.ranks import Ranks

pytestmark = pytest.mark.tiny

FLOAT64 = 1e-12
OTHERS = {"float32": 1e-3, "bfloat16": None}
"""AdamW divides by a gradient's own size, be it of rounding errors; in bfloat16 sharding rounds norms too, so that only
finite figures are asked for."""


@pytest.mark.parametrize("name", CASES)
def test_five_steps_equal_those_of_one_process(name: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    case = CASES[name]
    model = str(tiny_model(case.family))
    torchrun(WORKERS / "sharding_worker.py", name, model, tmp_path)
    sharded: dict[str, Any] = torch.load(tmp_path / "sharded.pt")
    assert sharded["num_sharded"] > 0  # a sharding that did nothing would pass all else
    first, second = sharded["norms_of_ranks"]
    assert torch.equal(first, second)
    assert sharded["loaded"]
    assert sharded["next"]
    tolerance = OTHERS.get(name, FLOAT64)
    if tolerance is None:
        assert first.isfinite().all()
        return
    alone = work(case, model, Ranks())
    assert alone["num_sharded"] == 0
    assert alone["weights"].keys() == sharded["weights"].keys()
    torch.testing.assert_close(first, alone["norms"], rtol=tolerance, atol=0)
    for parameter, weight in alone["weights"].items():
        difference = (sharded["weights"][parameter] - weight).norm() / weight.norm().clamp_min(1e-30)
        assert difference <= tolerance, parameter
