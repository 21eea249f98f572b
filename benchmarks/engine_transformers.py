"""How fast the transformers engine generates, as a ratio to model.generate batched by hand over the same prompts.

Both sides encode, generate (64 new tokens, greedy) and decode 256 chat prompts with an image each, with a tiny
qwen2_vl of hidden size 128. By hand, rows are batched in input order. Prints engine tokens/s ÷ hand-batched tokens/s:
the median of five pairs, and the pairs.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from mmkit.engines import Request, Sampling
from mmkit.engines.transformers import TransformersEngine
from mmkit.images import load
from mmkit.models.loading import load_chat, load_model
from mmkit.testing.tiny_models import build

NUM_ROWS = 256
NUM_NEW = 64
HAND_BATCH = 64  # the fastest by hand among 16, 32, 64, 128 and 256


def make_requests() -> list[Request]:
    """Prompts of 5 to 36 words, each with a picture of 48 × 48 pixels."""
    requests = []
    for number in range(NUM_ROWS):
        buffer = io.BytesIO()
        Image.new("RGB", (48, 48), (number, 255 - number, 99)).save(buffer, format="PNG")
        text = {"type": "text", "text": "what is in the picture? " * (1 + number * 7 % 8)}
        messages = [{"role": "user", "content": [{"type": "image"}, text]}]
        image = load({"bytes": buffer.getvalue()})
        requests.append(Request(str(number), number, messages, [image], sampling=Sampling(max_new_tokens=NUM_NEW)))
    return requests


def by_hand(chat: Any, model: Any, requests: list[Request]) -> int:
    """What a script does: cut the list into batches, encode, pad, generate, decode. The number of new tokens."""
    num_tokens = 0
    stops = [*chat.end_of_text_ids, chat.end_of_turn_id]
    for first in range(0, len(requests), HAND_BATCH):
        rows = requests[first : first + HAND_BATCH]
        encoded = [chat.encode(row.messages, row.images, open_turn="assistant") for row in rows]
        batch = chat.collate(encoded, padding_side="left")
        with torch.inference_mode():
            tokens = model.generate(
                **batch, max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=stops, pad_token_id=chat.pad_token_id
            )
        new = tokens[:, batch["input_ids"].shape[1] :]
        num_tokens += int((new != chat.pad_token_id).sum())
        chat.tokenizer.batch_decode(new, skip_special_tokens=True)
    return num_tokens


def by_engine(engine: TransformersEngine, requests: list[Request]) -> int:
    """The number of new tokens."""
    return sum(reply.usage.completion_tokens for reply in engine.generate(requests))


def rate(run: Callable[[], int]) -> float:
    """Tokens a second."""
    began = time.perf_counter()
    return run() / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    requests = make_requests()
    with tempfile.TemporaryDirectory() as directory:
        build("qwen2_vl", directory, corpus=["what is in the picture? a red circle"] * 50, hidden_size=128)
        chat, model = load_chat(directory), load_model(directory)
        engine = TransformersEngine(directory)
        by_hand(chat, model, requests[:8])
        by_engine(engine, requests[:8])
        ratios = []
        for _ in range(5):
            hand = rate(lambda: by_hand(chat, model, requests))
            ratios.append(rate(lambda: by_engine(engine, requests)) / hand)
    pairs = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"engine ÷ hand-batched model.generate, tokens/s: {statistics.median(ratios):.2f} (pairs {pairs})")


if __name__ == "__main__":
    main()
