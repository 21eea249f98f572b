"""How fast `synthesize` is over in-process vLLM, as a ratio to vLLM's own `LLM.chat` over the same prompts.

Runs where vLLM does: `.venv-vllm/bin/python benchmarks/engine_vllm.py [MODEL]`, by default a tiny random qwen2_vl.
Each side reads caption records and image files, opens the images, makes the prompts, and lets vLLM write 64 new tokens
a prompt, greedily; ours is all of the stage, from bytes to output file. Images and captions are new in every round, so
that no side profits from what it cached before. Both engines are up all the time, each in a process of its own. Prints
our pairs/s ÷ LLM.chat's: the median of five rounds, and the rounds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

NUM_ROWS = 96
NUM_NEW = 64
ROUNDS = 5
WORDS = "a red circle lies left of the small blue square that nobody saw before noon"
ENGINE: dict[str, Any] = {"enforce_eager": True, "max_model_len": 1024, "kv_cache_memory_bytes": 512 << 20}
"""For the tiny model on a CPU. With MODEL given, vLLM's own defaults."""


def make_captions(directory: Path, seed: int) -> Path:
    """Caption records with a picture of about 100 × 100 pixels each."""
    import numpy as np
    from PIL import Image

    chance = random.Random(seed)
    rows = []
    for number in range(NUM_ROWS):
        size = (84 + 28 * chance.randrange(3), 84 + 28 * chance.randrange(3))
        pixels = np.random.default_rng((seed, number)).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(directory / f"{seed}-{number}.png")
        caption = " ".join(chance.choices(WORDS.split(), k=chance.randrange(5, 60)))
        rows.append({"id": f"{seed}-{number}", "images": [{"path": f"{seed}-{number}.png"}], "caption": caption})
    path = directory / f"{seed}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def by_chat(llm: Any, template: str, stops: list[int], captions: Path) -> tuple[float, int, int]:
    """Seconds that a script around `LLM.chat` takes, the tokens that were read and those that it wrote."""
    from PIL import Image
    from vllm import SamplingParams

    from mmkit.tasks.prompts import CAPTION_HINT

    began = time.perf_counter()
    conversations = []
    for line in captions.read_text().splitlines():
        row = json.loads(line)
        image = Image.open(captions.parent / row["images"][0]["path"]).convert("RGB")
        conversations.append(
            [
                {
                    "role": "user",
                    "content": [{"type": "image_pil", "image_pil": image}, {"type": "text", "text": CAPTION_HINT}],
                },
                {"role": "assistant", "content": [{"type": "text", "text": row["caption"]}]},
            ]
        )
    sampling = SamplingParams(
        temperature=0, max_tokens=NUM_NEW, ignore_eos=True, stop_token_ids=stops, skip_special_tokens=False
    )
    outputs = llm.chat(conversations, sampling, use_tqdm=False, add_generation_prompt=False, chat_template=template)
    taken_s = time.perf_counter() - began
    num_read = sum(len(output.prompt_token_ids) for output in outputs)
    return taken_s, num_read, sum(len(output.outputs[0].token_ids) for output in outputs)


def by_mmkit(engine: Any, captions: Path) -> tuple[float, int, int]:
    """Seconds that `mmkit synthesize -o` takes once its engine is up, the tokens that were read and those written."""
    from mmkit.engines import Sampling
    from mmkit.engines.exchange import ask
    from mmkit.engines.meter import Metered
    from mmkit.streams import StreamOptions, run
    from mmkit.synthesis.triplets import synthesize

    inquiry = synthesize("tiny", sampling=Sampling(max_new_tokens=NUM_NEW), image_root=str(captions.parent))
    metered = Metered(engine)
    began = time.perf_counter()
    summary = run(
        ask(metered, inquiry),
        StreamOptions(inputs=[str(captions)], output=str(captions.with_suffix(".out.jsonl"))),
        command="synthesize",
    )
    assert summary.read == NUM_ROWS
    return time.perf_counter() - began, metered.prompt_tokens, metered.completion_tokens


@contextlib.contextmanager
def model_directory() -> Iterator[tuple[str, dict[str, Any]]]:
    """The model and its engine arguments."""
    if len(sys.argv) > 1:
        yield sys.argv[1], {}
        return
    from mmkit.testing.tiny_models import build

    with tempfile.TemporaryDirectory() as directory:
        build("qwen2_vl", directory, corpus=[WORDS] * 50)
        yield directory, ENGINE


def main() -> None:
    """Measure and print."""
    from vllm import LLM

    from mmkit.engines.vllm import VllmEngine
    from mmkit.models.loading import load_chat

    with model_directory() as (model, settings), tempfile.TemporaryDirectory() as scratch:
        template = (
            Path(model) / "chat_template.jinja"
        ).read_text() + "<|im_start|>user{{ '\\n' }}"  # jinja drops a bare newline at the end
        stops = load_chat(model).stop_ids("user")
        dtype = "float32" if settings else "auto"  # in bfloat16, near-ties of the tiny model end some replies early
        llm = LLM(model=model, dtype=dtype, disable_log_stats=True, **settings)
        engine = VllmEngine(
            model, dtype=dtype, engine_args=[f"{name}={json.dumps(value)}" for name, value in settings.items()]
        )
        ratios = []
        for number in range(ROUNDS + 1):  # the first warms both up
            captions = make_captions(Path(scratch), number)
            sides = {
                "LLM.chat": partial(by_chat, llm, template, stops, captions),
                "mmkit": partial(by_mmkit, engine, captions),
            }
            order = sorted(sides, reverse=bool(number % 2))  # whoever comes second finds the files in memory
            done = {side: sides[side]() for side in order}
            if done["LLM.chat"][1:] != done["mmkit"][1:]:
                raise RuntimeError(f"not the same work: {done}")
            if number:
                ratios.append(done["LLM.chat"][0] / done["mmkit"][0])
                shown = [
                    f"{side} {NUM_ROWS / taken:.1f} pairs/s ({tokens:,} tokens)"
                    for side, (taken, _, tokens) in done.items()
                ]
                print(", ".join(shown), flush=True)
        engine.close()
    rounds = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"synthesize over vLLM ÷ LLM.chat, pairs/s: {statistics.median(ratios):.2f} (rounds {rounds})")


if __name__ == "__main__":
    main()
