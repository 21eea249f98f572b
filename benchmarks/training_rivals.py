"""mmkit's training loop beside transformers' Trainer and TRL's SFTTrainer: tokens/s and peak memory, as ratios.

The same model, rows, device, precision, batch size and optimizer (AdamW), one thread, no gradient checkpointing; each
run in a process of its own, in turns. All of them read, decode and encode the rows while they train, and keep none:
what a set too large for memory costs. mmkit and Trainer get the rows from mmkit's encoder and so see the same tokens,
Trainer grouped by length; SFTTrainer brings its own collator, with the loss on the completion. Tokens are those of the
rows, padding not counted, after the first steps; memory is the peak of the process less what it held once the model was
loaded. There is one thread: on a busy machine, CPU time says what wall time would on an idle one.

SFTTrainer is skipped where it cannot be imported. It needs no environment of its own:
`pip install --no-deps --target DIR trl`, then `make bench TRL=DIR`. Without Triton it makes the logits of every
position; with it, of labelled ones alone. A ratio on a CPU would be about Triton, so it is measured as on a GPU; as it
is on a CPU, once.

`python benchmarks/training_rivals.py [CASE]...` measures; `... SIDE CASE FOLDER` is one run, which prints JSON.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training_data import QWEN2_VL_VOCABULARY, samples, write_model

ROUNDS = 3
BATCH, ACCUMULATION = 4, 2
STEPS, WARM_UP = 5, 1
WANTED_SPEED, WANTED_MEMORY = 1.3, 0.6


@dataclass(frozen=True)
class Case:
    """What is trained on what. `prompt` and `answer` are median words; an image of 112 × 112 pixels is 16 tokens."""

    what: str
    prompt: int
    answer: int
    train: str = "lora"
    vocab_size: int = QWEN2_VL_VOCABULARY
    num_layers: int = 4


CASES = {
    "answers": Case("short answers to long prompts, LoRA", 120, 10),
    "answers-full": Case("the same, all parameters trained", 120, 10, train="full"),
    "descriptions": Case("long answers: most tokens in the loss, LoRA", 5, 150),
    "deep": Case("short answers; head 15 % of the model, LoRA", 120, 10, vocab_size=16_384, num_layers=28),
}
"""In the first three the head is nine tenths of the model; in the last as much as in Qwen2-VL-2B."""


@dataclass
class Run:
    """What one run showed. `positions` are tokens and padding; `seconds`, `cpu_s` and `steady_tokens` are those
    after the first steps."""

    tokens: int = 0
    positions: int = 0
    loss_tokens: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    steady_tokens: int = 0
    loaded_mib: float = 0.0
    peak_mib: float = 0.0
    losses: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return self.steady_tokens / self.seconds

    @property
    def tokens_per_cpu_s(self) -> float:
        return self.steady_tokens / self.cpu_s

    @property
    def more_mib(self) -> float:
        return self.peak_mib - self.loaded_mib

    @property
    def padding(self) -> float:
        return 1 - self.tokens / self.positions


class Watch:
    """Counts what a model is given, and looks at the clock and the memory when a step ends."""

    def __init__(self, net: Any) -> None:
        for weight in net.state_dict().values():
            weight.sum()  # one that was never read lies in its file yet, and would be counted to the training
        self.run = Run(loaded_mib=resident_mib())
        self._steps = 0
        self._began = (0.0, 0.0, 0)
        net.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, inputs: Mapping[str, Any]) -> None:
        positions = inputs["input_ids"].numel()
        self.run.positions += positions
        self.run.tokens += int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else positions
        if "labels" in inputs:
            self.run.loss_tokens += int((inputs["labels"][:, 1:] != -100).sum())

    def step_ended(self, *_: Any, **__: Any) -> None:
        self._steps += 1
        now = (time.perf_counter(), time.process_time(), self.run.tokens)
        if self._steps == WARM_UP:
            self._began = now
        self.run.seconds, self.run.cpu_s, self.run.steady_tokens = (
            after - before for after, before in zip(now, self._began, strict=True)
        )
        self.run.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    """What the process holds now."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def rows_of(case: Case, folder: Path) -> list[Any]:
    """The rows of one epoch of STEPS steps."""
    number = BATCH * ACCUMULATION * STEPS
    return samples(folder / "images", number, image_edges=[112], prompt_words=case.prompt, answer_words=case.answer)


def config_of(case: Case, **settings: Any) -> Any:
    """The settings of mmkit, which say for the others what model is trained."""
    from mmkit.training import TuneConfig

    return TuneConfig(
        train=case.train,
        lr=1e-4,
        batch_size=BATCH,
        accumulation=ACCUMULATION,
        max_steps=STEPS,
        device="cpu",
        threads=1,
        cache_mb=0,
        **settings,
    )


def by_mmkit(case: Case, folder: Path, **settings: Any) -> Run:
    """Our own loop."""
    from mmkit.models.loading import load_chat
    from mmkit.training.config import StepReport
    from mmkit.training.finetune import prepare
    from mmkit.training.ranks import Ranks
    from mmkit.training.trainer import Tuning

    model = str(folder / "model")
    with tempfile.TemporaryDirectory() as out:
        job, rows = prepare(rows_of(case, folder), model=model, out=Path(out), config=config_of(case, **settings))
        assert rows is not None

        def on_step(step: StepReport) -> None:
            watch.run.losses.append(step.loss)
            watch.step_ended()

        tuning = Tuning(job, load_chat(model), rows, Ranks(), on_step)
        watch = Watch(tuning.net)
        tuning.run()
    watch.run.loss_tokens = tuning.counts["loss_tokens"]
    return watch.run


def by_mmkit_packed(case: Case, folder: Path) -> Run:
    """Our own loop, the rows of a micro-batch joined."""
    return by_mmkit(case, folder, pack=True)


def by_trainer(case: Case, folder: Path) -> Run:
    """transformers' Trainer on the rows as mmkit encodes them, like with like."""
    import torch
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from mmkit.models.loading import load_chat
    from mmkit.training.prepare import prepare_model
    from mmkit.training.rows import encode

    model = str(folder / "model")
    chat, rows = load_chat(model), rows_of(case, folder)

    def collate(chosen: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        encoded = [encode(rows[one["index"]], chat) for one in chosen]
        inputs = chat.collate(encoded, padding_side="right")
        labels = torch.full_like(inputs["input_ids"], -100)
        for i, one in enumerate(encoded):
            ids = torch.tensor(one.input_ids)
            labels[i, : len(ids)] = ids.masked_fill(~torch.tensor(one.in_loss), -100)
        return {**inputs, "labels": labels}

    lengths = [len(encode(row, chat).input_ids) for row in rows]
    dataset = Dataset.from_dict({"index": list(range(len(rows))), "length": lengths})
    arguments = TrainingArguments(
        remove_unused_columns=False, train_sampling_strategy="group_by_length", **hugging_face_arguments(folder)
    )
    net = prepare_model(model, config_of(case))
    return by_hugging_face(Trainer(model=net, args=arguments, train_dataset=dataset, data_collator=collate))


def by_sft_trainer(case: Case, folder: Path) -> Run:
    """TRL's SFTTrainer, with the head on labelled positions only, as it is where Triton is."""
    import trl.trainer.utils

    trl.trainer.utils._use_triton = lambda _: True  # here it only asks whether to pick positions
    return by_sft_trainer_without_triton(case, folder)


def by_sft_trainer_without_triton(case: Case, folder: Path) -> Run:
    """TRL's SFTTrainer, as it is."""
    from datasets import Dataset, Features, Image, List, Value
    from trl import SFTConfig, SFTTrainer

    from mmkit.models.loading import load_chat
    from mmkit.training.prepare import prepare_model

    model = str(folder / "model")
    rows = rows_of(case, folder)
    turns = List({"role": Value("string"), "content": Value("string")})
    dataset = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row.messages[0]["content"][1]["text"]}],
                "completion": [{"role": "assistant", "content": row.messages[1]["content"][0]["text"]}],
                "images": [str(folder / "images" / row.images[0]["path"])],
            }
            for row in rows
        ],
        features=Features({"prompt": turns, "completion": turns, "images": List(Image())}),
    )
    arguments = SFTConfig(max_length=None, **hugging_face_arguments(folder))
    return by_hugging_face(
        SFTTrainer(
            model=prepare_model(model, config_of(case)),
            args=arguments,
            train_dataset=dataset,
            processing_class=load_chat(model).processor,
        )
    )


def hugging_face_arguments(folder: Path) -> dict[str, Any]:
    """What both of the others are told. The optimizer is their default, AdamW in one fused pass."""
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": STEPS,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
    }


def by_hugging_face(trainer: Any) -> Run:
    """Train, watched."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step_ended()

        def on_log(self, *_: Any, logs: Mapping[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                watch.run.losses.append(float(logs["loss"]))

    trainer.add_callback(Watcher())
    watch = Watch(trainer.model)
    trainer.train()
    return watch.run


SIDES: dict[str, Callable[[Case, Path], Run]] = {
    "mmkit": by_mmkit,
    "mmkit --pack": by_mmkit_packed,
    "Trainer": by_trainer,
    "SFTTrainer": by_sft_trainer,
    "SFTTrainer without Triton": by_sft_trainer_without_triton,
}
ONCE = "SFTTrainer without Triton"


def in_a_process(side: str, name: str, folder: Path) -> Run:
    """One run, alone in a process. Raises RuntimeError where it fails."""
    arguments = [sys.executable, str(Path(__file__)), side, name, str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side}, {name}: {done.stderr[-2000:]}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure the cases named, or all, and print."""
    sides = list(SIDES)
    if importlib.util.find_spec("trl"):
        against = f"TRL {version('trl')}"
    else:
        sides = [side for side in sides if not side.startswith("SFTTrainer")]
        against = "no TRL: skipped (pip install --no-deps --target DIR trl; make bench TRL=DIR)"
    print(f"\n## Training, beside transformers' Trainer and TRL's SFTTrainer ({against})\n")
    print(
        "| case | side | tokens/s | tokens/CPU s | MiB more | padding | speed, mmkit ÷ it | by CPU time "
        "| memory, mmkit ÷ it | rounds, by CPU time |\n|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            report(CASES[name], measure(name, Path(folder), sides))
    print(
        f"\nWanted: at least {WANTED_SPEED} × the tokens/s at no more than {WANTED_MEMORY} × the memory. "
        f"{STEPS - WARM_UP} steps of {BATCH * ACCUMULATION} rows after {WARM_UP}; medians of {ROUNDS} rounds."
    )


def measure(name: str, folder: Path, sides: Sequence[str]) -> dict[str, list[Run]]:
    """A run of each side in each round, in turns."""
    case = CASES[name]
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2}
    write_model(folder / "model", text={**shape, "vocab_size": case.vocab_size, "num_hidden_layers": case.num_layers})
    runs: dict[str, list[Run]] = {side: [] for side in sides if side != ONCE or name == next(iter(CASES))}
    for number in range(ROUNDS):
        for side in sorted(runs, reverse=bool(number % 2)):
            if side != ONCE or not number:
                runs[side].append(in_a_process(side, name, folder))
    return runs


def report(case: Case, runs: Mapping[str, Sequence[Run]]) -> None:
    """Print a line for each side. A ratio is the median over the rounds of that within a round."""
    for side, theirs in runs.items():
        pairs = list(zip(runs["mmkit"], theirs, strict=side != ONCE))
        by_cpu = [ours.tokens_per_cpu_s / it.tokens_per_cpu_s for ours, it in pairs]
        columns = [
            case.what if side == "mmkit" else "",
            side,
            f"{statistics.median(it.tokens_per_s for it in theirs):,.0f}",
            f"{statistics.median(it.tokens_per_cpu_s for it in theirs):,.0f}",
            f"{statistics.median(it.more_mib for it in theirs):,.0f}",
            f"{statistics.median(it.padding for it in theirs):.1%}",
            f"{statistics.median(ours.tokens_per_s / it.tokens_per_s for ours, it in pairs):.2f}",
            f"{statistics.median(by_cpu):.2f}",
            f"{statistics.median(ours.more_mib / it.more_mib for ours, it in pairs):.2f}",
            " ".join(f"{ratio:.2f}" for ratio in by_cpu),
        ]
        print(f"| {' | '.join(columns)} |", flush=True)
    counts = {side: (theirs[0].tokens, theirs[0].loss_tokens) for side, theirs in runs.items()}
    if len(set(counts.values())) > 1:
        print(f"\nNot quite the same tokens (all, in the loss): {counts}\n", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in SIDES:
        print(json.dumps(asdict(SIDES[sys.argv[1]](CASES[sys.argv[2]], Path(sys.argv[3])))))
    else:
        main()
