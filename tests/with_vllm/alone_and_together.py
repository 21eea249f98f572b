"""Asks a model each of some questions alone and then all at once; writes the log-probabilities of both to a file.

A program of its own, as the number of threads and where vLLM logs to are settled when it is imported.
Usage: alone_and_together.py MODEL OUT
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from vllm_kit import ENGINE

WORDS = ("red", "blue", "circle", "how", "many", "answer")


def main(model: str, out: str) -> None:
    from vllm import LLM, SamplingParams

    draw = random.Random(0)
    questions = [" ".join(draw.choices(WORDS, k=draw.randint(1, 60))) for _ in range(16)]
    chats = [[{"role": "user", "content": question}] for question in questions]
    greedy = SamplingParams(temperature=0, max_tokens=128, ignore_eos=True, logprobs=0)
    options = {**ENGINE, "dtype": "bfloat16", "max_num_seqs": 64, "enable_prefix_caching": False}
    llm = LLM(model, **options)
    alone = [log_probs(llm.chat(chat, greedy, use_tqdm=False)[0]) for chat in chats]
    together = [log_probs(output) for output in llm.chat(chats, greedy, use_tqdm=False)]
    Path(out).write_text(json.dumps({"alone": alone, "together": together}))


def log_probs(output: object) -> list[float]:
    (completion,) = output.outputs
    return [place[token].logprob for place, token in zip(completion.logprobs, completion.token_ids, strict=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])
