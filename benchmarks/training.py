"""What tuning costs beside the model's own work: the weighted loss, padding, preparing, planning. CPU, tiny models.

Step times are the CPU time of one thread, of runs in one process that take turns, a step each, so that what else keeps
the machine busy hits all of them alike: five pairs of a few steps, and their median. Beside other trainers:
`training_rivals.py`.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import torch
import torch.nn.functional as F  # noqa: N812
from measure import PAIRS, cost
from training_data import QWEN2_VL_VOCABULARY, TASKS, samples, write_model
from training_rivals import resident_mib
from transformers.trainer_pt_utils import get_length_grouped_indices

from mmkit.models.encoding import Chat
from mmkit.models.loading import load_chat
from mmkit.training import Sample, StepReport, TuneConfig
from mmkit.training.collate import Batch, Batches, Collator
from mmkit.training.finetune import prepare
from mmkit.training.job import refuse_none, write_facts, write_samples
from mmkit.training.loss import head_of, hidden_states, valid_tokens
from mmkit.training.plan import MicroBatch, Place, RowFacts, epoch_plan
from mmkit.training.prepare import parameter_groups, prepare_model
from mmkit.training.ranks import Ranks
from mmkit.training.schedule import lr_factor
from mmkit.training.trainer import rows_of, run

LIMIT = 1.05
STEPS_A_PAIR, WARM_UP = 6, 3
WEIGHTS = dict(zip(TASKS, (0.1, 1.0, 5.0), strict=True))
CONFIG = TuneConfig(batch_size=4, accumulation=2, max_steps=WARM_UP + PAIRS * STEPS_A_PAIR, epochs=99, device="cpu")
SMALL = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {"vocabulary 512": SMALL, "vocabulary 151,936": {**SMALL, "vocab_size": QWEN2_VL_VOCABULARY}}
NUM_LLAVA_ROWS = 665_000
OnStep = Callable[[StepReport], None]


# --- the weighted loss


def weighted_loss(folder: Path) -> None:
    """Step time with λ {.1, 1, 5}, without weights, and of a loop by hand."""
    print(f"\n## Step time of the weighted loss, at most {LIMIT}\n")
    print("| model | ours, λ {.1, 1, 5} ÷ | ratio | reached | pairs | CPU seconds a step |\n|---|---|---|---|---|---|")
    plain = samples(folder / "images", 48, image_edges=[112], prompt_words=60, answer_words=10)
    weighted = [replace(sample, weight=WEIGHTS[sample.task or ""]) for sample in plain]
    for what, text in MODELS.items():
        model = folder / what
        write_model(model, text=text)
        seconds = in_turns(
            {
                "weighted": partial(by_mmkit, weighted, model, folder / "weighted"),
                "ours without weights": partial(by_mmkit, plain, model, folder / "plain"),
                "mean cross-entropy in a loop by hand": partial(by_hand, plain, model),
            }
        )
        pairs = {name: _pair_sums(taken) for name, taken in seconds.items()}
        for name in list(pairs)[1:]:
            ratios = [ours / theirs for ours, theirs in zip(pairs["weighted"], pairs[name], strict=True)]
            ratio = statistics.median(ratios)
            times = [statistics.median(pairs[side]) / STEPS_A_PAIR for side in ("weighted", name)]
            print(
                f"| {what} | {name} | {ratio:.3f} | {'yes' if ratio <= LIMIT else 'NO'} "
                f"| {' '.join(f'{one:.3f}' for one in ratios)} | {times[0]:.4f} / {times[1]:.4f} |",
                flush=True,
            )


def _pair_sums(seconds: Sequence[float]) -> list[float]:
    return [sum(seconds[start : start + STEPS_A_PAIR]) for start in range(WARM_UP, len(seconds), STEPS_A_PAIR)]


def in_turns(runs: Mapping[str, Callable[[OnStep], None]]) -> dict[str, list[float]]:
    """The CPU seconds of each step of several runs of equal length, which take a step each, one after another."""
    names = list(runs)
    turns = [threading.Semaphore(number == 0) for number in range(len(names))]
    seconds: dict[str, list[float]] = {name: [] for name in names}

    def go(number: int) -> None:
        mine, following = turns[number], turns[(number + 1) % len(names)]

        def on_step(_: StepReport) -> None:
            nonlocal began
            now = time.thread_time()
            seconds[names[number]].append(now - began)
            began = now
            following.release()
            mine.acquire()

        mine.acquire()
        began = time.thread_time()
        try:
            runs[names[number]](on_step)
        finally:
            following.release()

    with ThreadPoolExecutor(len(names)) as pool:
        for done in [pool.submit(go, number) for number in range(len(names))]:
            done.result()
    return seconds


def by_mmkit(rows: Sequence[Sample], model: Path, out: Path, on_step: OnStep) -> None:
    """Our own loop."""
    _, encoded = prepare(rows, model=str(model), out=out, config=CONFIG)
    run(out, Ranks(), rows=encoded, on_step=on_step)


def by_hand(rows: Sequence[Sample], model: Path, on_step: OnStep) -> None:
    """The loop that one writes for one task and one device, with the head on labelled positions only."""
    chat, net = load_chat(str(model)), prepare_model(str(model), CONFIG).train()
    head, optimizer = head_of(net), torch.optim.AdamW(parameter_groups(net, CONFIG))
    for number, batches in enumerate(_batches(rows, chat)):
        num_tokens = sum(batch["loss_tokens"] for batch in batches)
        total = 0.0
        for batch in batches:
            valid = valid_tokens(batch["labels"])
            logits = head(hidden_states(net, batch["inputs"])[:, :-1][valid])
            loss = F.cross_entropy(logits, batch["labels"][:, 1:][valid], reduction="sum") / num_tokens
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), CONFIG.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = CONFIG.lr * lr_factor(number, CONFIG.max_steps or 0, CONFIG)
        optimizer.step()
        optimizer.zero_grad()
        on_step(StepReport(number + 1, CONFIG.max_steps or 0, total, CONFIG.lr, float(norm), num_tokens, 0.0))


def _batches(rows: Sequence[Sample], chat: Chat) -> Iterator[list[Batch]]:
    """The micro-batches of the steps that mmkit takes, too."""
    encoded = rows_of(rows, chat, CONFIG)
    facts = [
        RowFacts(row.id, row.task, len(row.encoded.input_ids), True)
        for row in (encoded[index] for index in range(len(rows)))
        if row.encoded is not None
    ]
    steps = [step for epoch in range(CONFIG.epochs) for step in epoch_plan(facts, CONFIG, epoch=epoch)]
    planned = [micro_step[0] for step in steps[: CONFIG.max_steps] for micro_step in step]
    collator = Collator(chat, {task: number for number, task in enumerate(sorted(TASKS))})
    loader = iter(Batches(encoded, range(len(rows)), planned, collator, workers=0, pin_memory=False))
    for step in steps[: CONFIG.max_steps]:
        yield [next(loader) for _ in step]


# --- padding and planning


def padding() -> None:
    """How much of what the devices are given is padding, and how long they wait for each other."""
    facts = llava_facts(NUM_LLAVA_ROWS)
    lengths = [fact.length for fact in facts]
    config = TuneConfig(batch_size=4, accumulation=4)
    print(f"\n## Padding: {len(facts):,} rows as long as LLaVA-665K's, 8 processes × batch 4 × accumulation 4\n")
    print("| batches | padding | idle for the slowest process | CPU seconds to plan |\n|---|---|---|---|")
    for what, options in {
        "--no-group-by-length": {"group_by_length": False},
        "--group-by-length (default)": {},
        "--group-by-length --modality-batches": {"modality_batches": True},
    }.items():
        began = time.process_time()
        plan = epoch_plan(facts, replace(config, **options), epoch=0, world=8)  # type: ignore[arg-type]
        seconds = time.process_time() - began
        micro_steps = [micro_step for step in plan for micro_step in step]
        _print_shares(what, lengths, micro_steps, f"{seconds:.1f}")
        if not options:
            _print_shares("--group-by-length --pack", lengths, micro_steps, f"{seconds:.1f}", packed=True)
    order = get_length_grouped_indices(lengths, batch_size=4 * 8, generator=torch.Generator().manual_seed(0))
    # A sampler's batch r, r + 8, … is process r's.
    batches = [tuple(map(Place, order[start : start + 4])) for start in range(0, len(order) - 31, 4)]
    micro_steps = [tuple(batches[start : start + 8]) for start in range(0, len(batches) - 7, 8)]
    _print_shares("transformers' group_by_length, for comparison", lengths, micro_steps, "")


def llava_facts(number: int) -> list[RowFacts]:
    """Rows with lengths as LLaVA-665K's are: 94 % with an image of 576 tokens and a log-normal text (median 150, σ .8),
    the rest text alone (median 600, σ .9), cut at 2,048."""
    draw = random.Random(0)
    facts = []
    for i in range(number):
        has_image = draw.random() < 0.94
        median, sigma = (150, 0.8) if has_image else (600, 0.9)
        length = 576 * has_image + draw.lognormvariate(math.log(median), sigma)
        facts.append(RowFacts(str(i), None, min(2048, round(length) + 1), has_image))
    return facts


def _print_shares(
    what: str, lengths: Sequence[int], micro_steps: Sequence[Sequence[MicroBatch]], planned: str, packed: bool = False
) -> None:
    """Padding among all positions; and of the time of all processes, what passes while the slowest one computes, if
    time is proportional to positions."""
    tokens = positions = longest = 0
    for micro_step in micro_steps:
        real = [sum(lengths[place.index] for place in batch if not place.padding) for batch in micro_step]
        given = [
            sum(lengths[place.index] for place in batch)
            if packed
            else len(batch) * max(lengths[place.index] for place in batch)
            for batch in micro_step
        ]
        tokens, positions, longest = tokens + sum(real), positions + sum(given), longest + len(given) * max(given)
    print(f"| {what} | {1 - tokens / positions:.1%} | {1 - positions / longest:.1%} | {planned} |", flush=True)


# --- before the first step


def preparing(folder: Path) -> None:
    """What passes before the first step."""
    print("\n## Before the first step\n\n| work | seconds | CPU |\n|---|---|---|")
    model, rows = folder / "small", samples(folder / "many", 1000, image_edges=[336], prompt_words=60, answer_words=60)
    write_model(model, text=SMALL)
    chat = load_chat(str(model))
    place = folder / "job"
    place.mkdir()
    with _timed("write the job's samples, 1,000 rows"):
        write_samples(place, rows, refuse_none)
    for workers in (0, 2):
        with _timed(f"encode and measure 1,000 rows with an image of 336 × 336, {workers} workers"):
            write_facts(place, rows_of(rows, chat, CONFIG), replace(CONFIG, workers=workers), refuse_none)
    with _timed("guess their lengths (--no-check-rows)"):
        write_facts(place, rows_of(rows, chat, CONFIG), replace(CONFIG, check_rows=False), refuse_none)
    _planning_ahead(place)
    imports = cost(["-c", "import torch, transformers, peft"])
    one_step = cost(_finetune(rows[:8], model, folder))
    print(f"| `import torch, transformers, peft` | {imports.wall_s:.2f} | {imports.cpu_s:.2f} |")
    print(f"| `mmkit finetune`, 8 rows, one step, model saved | {one_step.wall_s:.2f} | {one_step.cpu_s:.2f} |")


def _planning_ahead(place: Path) -> None:
    facts = llava_facts(700_000)
    with (place / "rows.jsonl").open("wb") as file:
        for index, fact in enumerate(facts):
            wire = {"id": fact.id, "task": None, "length": fact.length, "has_image": fact.has_image}
            file.write(orjson.dumps({**wire, "index": index, "held_out": False}) + b"\n")
    before = resident_mib()
    with _timed("plan an epoch of 700,000 rows for 8 processes"):
        plan = epoch_plan(facts, TuneConfig(batch_size=4, accumulation=4), epoch=0, world=8)
    print(f"| (its {len(plan):,} steps hold {resident_mib() - before:,.0f} MiB) | | |")


def _finetune(rows: Sequence[Sample], model: Path, folder: Path) -> list[str]:
    data = folder / "rows.jsonl"
    records = [{"id": row.id, "messages": row.messages, "images": row.images} for row in rows]
    data.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    settings = ["--image-root", str(rows[0].image_root), "--max-steps", "1", "--device", "cpu"]
    return ["-m", "mmkit", "finetune", str(data), "--model", str(model), "-o", str(folder / "tuned"), *settings]


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"| {what} | {time.perf_counter() - began:.2f} | {time.process_time() - cpu:.2f} |", flush=True)


def main() -> None:
    parts = {"weighted": weighted_loss, "padding": lambda _: padding(), "preparing": preparing}
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
