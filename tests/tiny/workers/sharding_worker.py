"""One process of tests/tiny/test_sharding.py, `sharding_worker.py OUT FAMILY=MODEL…`: writes OUT/CASE.pt."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from mmkit.images import LoadedImage
from mmkit.models.encoding import Encoded
from mmkit.models.loading import load_chat
from mmkit.models.mixlora import conditioned
from mmkit.training import TuneConfig, sharding
from mmkit.training.prepare import prepare_model
from mmkit.training.ranks import Ranks, clip_, connected, grad_norm

TEXT, PICTURE = False, True
STEPS, TOKENS = 5, 50.0
"""Optimizer steps, and the denominator of the loss: any number does, if it is the same for all."""


@dataclass(frozen=True)
class Case:
    """`micro_steps` says which process sees an image in each micro-batch of a step."""

    family: str = "qwen2_vl"
    config: dict[str, Any] = field(default_factory=dict)
    micro_steps: tuple[tuple[bool, bool], ...] = ((PICTURE, TEXT), (TEXT, PICTURE))


CASES = {
    "full": Case(),
    "lora": Case(config={"train": "lora", "lora_r": 4}),
    "mixlora": Case(config={"train": "mixlora", "lora_r": 2, "experts": 3}),
    "gradient_checkpointing": Case(config={"gradient_checkpointing": True}),
    "float32": Case(config={"dtype": "float32"}),
    "bfloat16": Case(config={"dtype": "bfloat16"}),
    # Its layers of cross-attention are left out where there is no image, the last time too.
    "skipped_layers": Case(family="mllama", micro_steps=((PICTURE, PICTURE), (TEXT, TEXT))),
    "skipped_layers_lora": Case(
        family="mllama", config={"train": "lora"}, micro_steps=((TEXT, TEXT), (PICTURE, PICTURE), (TEXT, TEXT))
    ),
}


class Run:
    """Five steps of AdamW; with one process it does the work of both."""

    def __init__(self, case: Case, model: str, here: Ranks) -> None:
        self.case, self.here = case, here
        self.config = TuneConfig(**{"dtype": "float64", "device": "cpu", "fsdp": True, **case.config})
        self.chat = load_chat(model)
        self.net = prepare_model(model, self.config)
        if self.config.gradient_checkpointing:
            self.net.gradient_checkpointing_enable({"use_reentrant": False})
        self.net.train()
        sharding.shard(self.net, here, self.config)
        self.named = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.named.values(), lr=1e-2, weight_decay=0.1, foreach=False)
        self.norms: list[Tensor] = []

    def step(self, number: int) -> None:
        for micro_step, sees in enumerate(self.case.micro_steps, 1):
            for rank in range(2) if self.here.world == 1 else (self.here.rank,):
                self.backward(number, micro_step, rank, sees[rank])
        self.here.sum_gradients(self.named.values())
        norm = grad_norm(self.named.values(), self.here)
        clip_(self.named.values(), norm, 0.5)
        self.norms.append(norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, step: int, micro_step: int, rank: int, sees: bool) -> None:
        """Add what a micro-batch of one row gives the gradient of the global loss; every token weighs λ."""
        lambda_ = (0.1, 1.0, 5.0)[(step + micro_step + rank) % 3]
        row = self.row("red" if rank else "a blue square", number=step + micro_step, sees=sees)
        inputs, in_loss = self.inputs(row)
        with conditioned(self.net, [row.instruction]):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.config.dtype == "bfloat16"):
                logits = self.net(**inputs, use_cache=False).logits
            nll = F.cross_entropy(logits[:, :-1][in_loss], inputs["input_ids"][:, 1:][in_loss], reduction="sum")
            (lambda_ * nll / TOKENS).backward()

    def row(self, answer: str, number: int, sees: bool) -> Encoded:
        asked = [{"type": "image"}] if sees else []
        messages = [
            {"role": "user", "content": [*asked, {"type": "text", "text": f"What is in the image? {number}"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        pictures = [picture((40 * number % 255, 90, 10))] if sees else []
        return self.chat.encode(messages, pictures)

    def inputs(self, row: Encoded) -> tuple[dict[str, Tensor], Tensor]:
        tensors = self.chat.collate([row], padding_side="right")
        dtype = torch.float64 if self.config.dtype == "float64" else torch.float32
        inputs = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        return inputs, torch.tensor([row.in_loss])[:, 1:]

    def weights(self) -> dict[str, Tensor]:
        return {name: t.clone() for name, t in sharding.full_tensors(self.named).items()}

    def states(self) -> dict[str, Tensor]:
        """AdamW's state as "parameter/entry"."""
        entries = {
            f"{name}/{key}": value
            for name, parameter in self.named.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        return {name: t.clone() for name, t in sharding.full_tensors(entries).items()}

    def load(self, weights: dict[str, Tensor], states: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, full in weights.items():
                self.named[name].copy_(sharding.shard_like(full, self.named[name]))
        for key, full in states.items():
            name, _, entry = key.rpartition("/")
            parameter = self.named[name]
            self.optimizer.state[parameter][entry] = sharding.shard_like(full, parameter) if full.dim() else full


def picture(colour: tuple[int, int, int]) -> LoadedImage:
    file = io.BytesIO()
    Image.new("RGB", (48, 48), colour).save(file, "PNG")
    return LoadedImage(file.getvalue(), "picture", "image/png")


def work(case: Case, model: str, here: Ranks) -> dict[str, Any]:
    """Weights and state after five steps; the same from a run that begins with these; and a step more of both."""
    run = Run(case, model, here)
    for number in range(STEPS):
        run.step(number)
    weights, states = run.weights(), run.states()
    loaded = Run(case, model, here)
    loaded.load(here.gather(weights)[0], here.gather(states)[0])
    loaded_the_same = same((loaded.weights(), loaded.states()), (weights, states))
    run.step(STEPS)
    loaded.step(STEPS)
    return {
        "num_sharded": sum(map(sharding.is_sharded, run.named.values())),
        "num_whole": sum(not sharding.is_sharded(p) for p in run.named.values()),
        "norms": torch.stack(run.norms),
        "weights": weights,
        "loaded": loaded_the_same,
        "next": same((run.weights(), run.states()), (loaded.weights(), loaded.states())),
    }


def same(left: tuple[dict[str, Tensor], ...], right: tuple[dict[str, Tensor], ...]) -> bool:
    """Whether all tensors are equal to the bit."""
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(left, right, strict=True)
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, models = Path(sys.argv[1]), dict(argument.split("=", 1) for argument in sys.argv[2:])
    with connected(TuneConfig(device="cpu")) as here:
        for name, case in CASES.items():
            result = work(case, models[case.family], here)
            norms = here.gather(result["norms"])
            if here.is_main:
                torch.save({**result, "norms_of_ranks": norms}, folder / f"{name}.pt")
