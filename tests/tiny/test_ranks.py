"""The processes of a run, as real processes: what they sum is exact, and the same bits on each of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distributed_kit import WORKERS, torchrun
from workers.ranks_worker import SHAPES, gradient, none_at_all, parameters, told

from mmkit.errors import LimitError
from mmkit.training import TuneConfig
from mmkit.training.ranks import Ranks, clip_, connected, grad_norm

pytestmark = pytest.mark.tiny

CPU = TuneConfig(device="cpu")


Seen = list[dict[str, Any]]
"""What each of two processes made of the cases, by name."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("two")
    torchrun(WORKERS / "ranks_worker.py", folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def expected(index: int) -> torch.Tensor | None:
    present = [g for g in (gradient(index, 0), gradient(index, 1)) if g is not None]
    return None if not present else torch.stack(present).sum(0)


@pytest.mark.parametrize("case", ["summed", "small_buckets"])
def test_gradients_are_summed_over_the_processes_whoever_has_them(case: str, two: Seen) -> None:
    first, second = (seen[case] for seen in two)
    for index in range(len(SHAPES)):
        wanted = expected(index)
        for gradients in (first["gradients"], second["gradients"]):
            if wanted is None:
                assert gradients[index] is None  # not zeros: the optimizer is to leave it alone
            else:
                assert gradients[index].dtype == wanted.dtype
                assert torch.equal(gradients[index], wanted)  # a sum of two is exact in any order
    everything = torch.cat([g.double().flatten() for g in map(expected, range(len(SHAPES))) if g is not None])
    for here in (first, second):
        assert here["norm"].item() == pytest.approx(everything.norm().item(), rel=1e-7)
        assert here["clipped"].item() == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(first["norm"], second["norm"])


def test_without_any_gradient_nothing_is_summed(two: Seen) -> None:
    for here in (seen["none_at_all"] for seen in two):
        assert here["gradients"] == [None, None]
        assert here["norm"] == 0


def test_what_the_processes_tell_each_other(two: Seen) -> None:
    first, second = (seen["told"] for seen in two)
    assert torch.equal(first["sum"], torch.tensor([0.1 + 0.2, 2e9], dtype=torch.float64))
    assert torch.equal(first["sum"], second["sum"])
    assert second["given"][0] == 0.2  # what was handed over is not changed
    for here in (first, second):
        assert here["gather"] == [{"rank": 0}, {"rank": 1}]
        assert here["world"] == 2
    assert (first["main"], second["main"]) == (True, False)


def test_one_process_needs_no_group_and_changes_nothing() -> None:
    with connected(CPU) as here:
        assert not torch.distributed.is_initialized()
        mine = parameters(0)
        here.sum_gradients(mine)
        for index, parameter in enumerate(mine):
            wanted = gradient(index, 0)
            assert (parameter.grad is None) if wanted is None else torch.equal(parameter.grad, wanted)
        assert none_at_all(here)["norm"] == 0
        assert told(here)["gather"] == [{"rank": 0}]


def test_clipping_leaves_small_gradients_alone_to_the_bit() -> None:
    mine = parameters(0)
    before = [None if p.grad is None else p.grad.clone() for p in mine]
    norm = grad_norm(mine, Ranks())
    clip_(mine, norm, 2 * norm.item())
    clip_(mine, norm, 0)
    for parameter, old in zip(mine, before, strict=True):
        assert (parameter.grad is None) if old is None else torch.equal(parameter.grad, old)


def test_a_full_gpu_is_said_in_words() -> None:
    with pytest.raises(LimitError, match=r"memory is full; .*\(tried to allocate 2 GiB\)"), connected(CPU):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")
