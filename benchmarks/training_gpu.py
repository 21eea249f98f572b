"""How fast Qwen2-VL-2B and -7B train on GPUs: samples/s, tokens/s, MFU, peak memory, and where the time goes.

`python benchmarks/training_gpu.py [--out DIR] [CASE]...` builds both from their published configurations with random
weights, and rows with an image of 576 to 1,156 tokens and about 200 tokens of text; nothing is downloaded. Each case is
a `finetune` in a process of its own. Workers read and encode rows while it trains, and the wait for them counts.
Medians of ten steps after three; the two after those are profiled, and their table goes to DIR/CASE.txt (default: the
working directory's `profiles`). What MFU counts stands in `mmkit.training.flops`.

`--smoke` does the same with tiny models on a CPU, in one process and a few steps, to see that all of it runs; its
figures say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import machine
from torch.profiler import ProfilerActivity, profile
from training_data import samples, write_model

from mmkit.training import Placement, StepReport, TuneConfig
from mmkit.training.finetune import finetune

WANTED_MFU = 0.45
BYTES_A_PARAMETER = 16
"""Of a fully trained one: itself, its gradient and two of AdamW's, in float32."""

VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4}


@dataclass(frozen=True)
class Model:
    """A published configuration, and its number of parameters in 10⁹."""

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    tied: bool
    billions: float


MODELS = {
    "2B": Model(
        {
            "vocab_size": 151_936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32_768,
        },
        VISION,
        tied=True,
        billions=2.21,
    ),
    "7B": Model(
        {
            "vocab_size": 152_064,
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32_768,
        },
        VISION,
        tied=False,
        billions=8.29,
    ),
}
"""Source: config.json of Qwen/Qwen2-VL-2B-Instruct and -7B-Instruct (Wang et al. 2024). Deviation: a tokenizer of a few
words, whose control tokens have other numbers."""


@dataclass(frozen=True)
class Case:
    """One run."""

    model: str
    train: str
    pack: bool = False
    checkpointing: bool = False
    fsdp: bool = False

    @property
    def name(self) -> str:
        parts = [self.model, self.train]
        parts += [flag for flag in ("pack", "checkpointing", "fsdp") if getattr(self, flag)]
        return "-".join(parts)


CASES = {
    case.name: case
    for case in (
        *(Case(model, "lora", pack, deep) for model in MODELS for pack in (False, True) for deep in (False, True)),
        *(Case("2B", "full", pack, deep) for pack in (False, True) for deep in (False, True)),
        Case("7B", "full", pack=True, checkpointing=True, fsdp=True),
    )
}


@dataclass(frozen=True)
class Scale:
    """How large everything is: as published, or so small that a CPU is through in seconds."""

    smoke: bool

    @property
    def steps(self) -> tuple[int, int, int]:
        """To warm up, to time, to profile."""
        return (1, 1, 1) if self.smoke else (3, 10, 2)

    @property
    def image_edges(self) -> tuple[int, ...]:
        """In pixels; 28 × 28 of them are a token."""
        return (56, 84) if self.smoke else (672, 784, 952)

    def batch(self, case: Case) -> tuple[int, int]:
        """Rows of a micro-batch and micro-batches of a step: 16 rows a step and GPU. Checkpointing leaves room for more
        at a time."""
        if self.smoke:
            return 2, 1
        return (16, 1) if case.checkpointing else (4, 4)

    def model(self, name: str) -> Model:
        """The configuration."""
        model = MODELS[name]
        if not self.smoke:
            return model
        tiny = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        return Model({**model.text, **tiny, **heads}, {"depth": 2, "embed_dim": 64, "num_heads": 4}, model.tied, 0.0)

    def write(self, name: str, folder: Path) -> None:
        """Make the model's directory."""
        model = self.model(name)
        write = partial(write_model, folder, text=model.text, vision=model.vision, tied=model.tied)
        if self.smoke:
            write()
            return
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # it gives its GPU memory back
            pool.submit(write, dtype="bfloat16", device="cuda").result()


def measure(case: Case, model: Path, table: Path, scale: Scale) -> dict[str, Any]:
    """Run a case and give its figures; the profile goes to `table`."""
    batch_size, accumulation = scale.batch(case)
    warm_up, timed, profiled = scale.steps
    config = TuneConfig(
        train=case.train,
        pack=case.pack,
        gradient_checkpointing=case.checkpointing,
        fsdp=case.fsdp,
        batch_size=batch_size,
        accumulation=accumulation,
        max_steps=warm_up + timed + profiled,
        epochs=99,
        lr=1e-5,
        device="cpu" if scale.smoke else "cuda",
        workers=0 if scale.smoke else max(1, (os.cpu_count() or 1) - 2),
        cache_mb=0,
    )
    steps: list[StepReport] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=model.parent)))
        rows = samples(
            folder / "images",
            batch_size * accumulation * 4,
            image_edges=scale.image_edges,
            prompt_words=4 if scale.smoke else 120,
            answer_words=4 if scale.smoke else 80,
        )
        profiler = profile(activities=_activities(), record_shapes=True)

        def on_step(step: StepReport) -> None:
            steps.append(step)
            if step.step == warm_up + timed and not case.fsdp:  # else the work is done in other processes
                stack.enter_context(profiler)

        finetune(rows, model=str(model), out=folder / "out", config=config, placement=_placement(case), on_step=on_step)
    if not case.fsdp:
        table.write_text(profiler.key_averages().table(sort_by=_order(), row_limit=60, max_name_column_width=80))
    measured = steps[warm_up : warm_up + timed]
    seconds = statistics.median(step.seconds for step in measured)
    shares = [step.mfu for step in measured if step.mfu is not None]
    return {
        "rows": batch_size * accumulation * _num_processes(case),
        "seconds": seconds,
        "samples_per_s": batch_size * accumulation * _num_processes(case) / seconds,
        "tokens_per_s": statistics.median(step.tokens / step.seconds for step in measured),
        "mfu": statistics.median(shares) if shares else None,
        "peak_gib": None if scale.smoke or case.fsdp else torch.cuda.max_memory_allocated() / 2**30,
    }


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]


def _order() -> str:
    return "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"


def _placement(case: Case) -> Placement:
    return Placement(nproc=_num_processes(case))


def _num_processes(case: Case) -> int:
    return torch.cuda.device_count() if case.fsdp else 1


def why_not(case: Case, scale: Scale) -> str | None:
    """What keeps a case from being run here, if anything does."""
    if not case.fsdp:
        return None
    gpus = torch.cuda.device_count()
    if scale.smoke or gpus < 2:
        return "needs several GPUs"
    need = BYTES_A_PARAMETER * MODELS[case.model].billions * 1e9 / gpus
    if need > 0.6 * torch.cuda.get_device_properties(0).total_memory:
        return f"needs {need / 2**30:.0f} GiB a GPU and room to compute"
    return None


def alone(case: Case, model: Path, table: Path) -> dict[str, Any]:
    """The same in a process of its own: a GPU whose memory is full is good for nothing else in that process."""
    words = [sys.executable, __file__, "--one", case.name, str(model), str(table)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        *_, last = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(last[:300])
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description="Qwen2-VL-2B and -7B on GPUs; --smoke: tiny ones on a CPU.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"Default: all of {', '.join(CASES)}.")
    parser.add_argument("--out", type=Path, default=Path("profiles"))
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "MODEL", "TABLE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {unknown.pop()}; there are {', '.join(CASES)}")
    scale = Scale(options.smoke)
    if options.one:
        name, model, table = options.one
        print(json.dumps(measure(CASES[name], Path(model), Path(table), scale)))
        return 0
    if not scale.smoke and not torch.cuda.is_available():
        sys.stderr.write("training_gpu.py needs a GPU (--smoke needs none)\n")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    print(machine() + "".join(f", {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())))
    print(f"\n| case | rows a step | seconds | samples/s | tokens/s | MFU (wanted {WANTED_MFU:.0%}) | peak GiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        done = [_told(case, Path(folder), options.out, scale) for case in _by_model(options.cases, scale, Path(folder))]
    return 0 if all(done) else 1


def _by_model(names: list[str], scale: Scale, folder: Path) -> Iterator[Case]:
    """The cases wanted, each model written when its first one comes."""
    for name, case in CASES.items():
        if names and name not in names:
            continue
        if not (folder / case.model).exists():
            scale.write(case.model, folder / case.model)
        yield case


def _told(case: Case, folder: Path, out: Path, scale: Scale) -> bool:
    """Print a case's figures, or what kept it from being run; whether it was none that failed."""
    model, table = folder / case.model, out / f"{case.name}.txt"
    reason = why_not(case, scale)
    if reason is not None:
        print(f"| {case.name} | skipped: {reason} | | | | | |", flush=True)
        return True
    try:
        figures = measure(case, model, table, scale) if scale.smoke else alone(case, model, table)
    except RuntimeError as error:
        print(f"| {case.name} | failed: {error} | | | | | |", flush=True)
        return False
    mfu = "" if figures["mfu"] is None else f"{figures['mfu']:.1%}"
    peak = "" if figures["peak_gib"] is None else f"{figures['peak_gib']:.1f}"
    print(
        f"| {case.name} | {figures['rows']} | {figures['seconds']:.3f} | {figures['samples_per_s']:.2f} "
        f"| {figures['tokens_per_s']:,.0f} | {mfu} | {peak} |",
        flush=True,
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
