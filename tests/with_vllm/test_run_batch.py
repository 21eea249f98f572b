"""Batch files through the real `vllm run-batch`: a synthesizer that has learnt its task, and a raw-prompt judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from vllm_kit import COLOURS, SERVING, lines, mmkit

from mmkit.engines import Request
from mmkit.engines.batch_files.answers import BatchAnswers
from mmkit.engines.batch_files.requests import BatchRequests, custom_id
from mmkit.engines.exchange import Inquiry
from mmkit.engines.transformers import TransformersEngine
from mmkit.streams import Row, read_records
from mmkit.synthesis import consistency


def run_batch(folder: Path, requests: Iterable[bytes], model: str, *more: str) -> str:
    """The file of answers that vLLM writes for these lines; its name within the folder."""
    asked, answered = f"{model}.requests.jsonl", f"{model}.answers.jsonl"
    (folder / asked).write_bytes(b"".join(line + b"\n" for line in requests))
    program = str(Path(sys.executable).parent / "vllm")
    done = subprocess.run(
        [
            *(program, "run-batch", "-i", asked, "-o", answered, "--model", model),
            *("--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16"),
            *("--block-size", "32", "--kv-cache-memory-bytes", str(256 << 20), *more),
        ],
        cwd=folder,
        env={**os.environ, **SERVING, "PATH": f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return answered


@pytest.fixture(scope="module")
def folder(synthesizer: Path) -> Path:
    return synthesizer


@pytest.fixture(scope="module")
def adapter(folder: Path) -> str:
    """A LoRA adapter with which the synthesizer answers what it is asked."""
    rows = []
    for row in lines(folder / "pages.jsonl"):
        asked = [{"type": "image"}, {"type": "text", "text": row["question"]}]
        told = [{"type": "text", "text": row["answer"]}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
        rows.append({"id": row["id"], "images": [{"path": row["image"]}], "messages": messages})
    (folder / "answering.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuning = ("--train", "lora", "--max-steps", "60", "--lr", "1e-2", "--batch-size", "3", "--threads", "1")
    mmkit(folder, "finetune", "answering.jsonl", "--model", "syn", "-o", "lora", *tuning)
    return "lora"


ASKING = {
    "synthesize": ("synthesize", "rows.jsonl", "--model", "syn", "--max-new-tokens", "60"),
    "predict": ("predict", "rows.jsonl", "--model", "syn", "--max-new-tokens", "8"),
}
TUNED = ("predict", "pages.jsonl", "--model", "tuned", "--max-new-tokens", "8")
JUDGING = ("filter", "rows.jsonl", "--model", "syn", "--limit", "1")


@pytest.fixture(scope="module")
def answers(folder: Path, adapter: str) -> str:
    """What vLLM answers to the requests of all commands, in one file."""
    requests = []
    for command, asking in [*ASKING.items(), ("tuned", TUNED), ("refused", JUDGING)]:
        mmkit(folder, *asking, "--to-batch", f"{command}.jsonl")
        requests += (folder / f"{command}.jsonl").read_bytes().splitlines()
    # As the message about --adapter says. Two places, since vLLM's CPU kernels put requests without an adapter through
    # the last place's where others in their batch have one; it must be empty.
    lora = ("--enable-lora", "--max-loras", "2", "--lora-modules", f"tuned={adapter}")
    return run_batch(folder, requests, "syn", *lora)


def test_every_request_gets_an_answer_under_its_own_id(folder: Path, answers: str) -> None:
    asked = [
        line["custom_id"] for command in (*ASKING, "tuned", "refused") for line in lines(folder / f"{command}.jsonl")
    ]
    assert [line["custom_id"] for line in lines(folder / answers)] == asked


@pytest.mark.parametrize("command", list(ASKING))
def test_a_row_that_is_too_long_fails_alone_and_in_vllm_s_words(folder: Path, answers: str, command: str) -> None:
    out = mmkit(folder, *ASKING[command], "--from-batch", answers, "--rejects", "rejects.jsonl")
    assert len(out.splitlines()) == 3
    (reject,) = lines(folder / "rejects.jsonl")
    assert (reject["line"], reject["record"]["id"]) == (2, "too long")
    assert "HTTP 400: This model's maximum context length is 2048 tokens" in reject["reason"]


def test_the_synthesizer_goes_on_with_the_conversation(folder: Path, answers: str) -> None:
    out = mmkit(folder, *ASKING["synthesize"], "--from-batch", answers, "--rejects", "rejects.jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == ["p0#0", "p1#0", "p2#0"]
    assert [(row["question"], row["answer"], row["rationale"]) for row in rows] == [
        ("what colour?", colour, f"the page is {colour} all over.") for colour in COLOURS
    ]


@pytest.mark.parametrize("command", list(ASKING))
def test_run_batch_says_what_transformers_says(folder: Path, answers: str, command: str) -> None:
    """The same texts from the same images, the same settings in lineage, and as many tokens of prompt and reply."""
    asking = [argument.replace("rows.jsonl", "pages.jsonl") for argument in ASKING[command]]
    batched = [json.loads(line) for line in mmkit(folder, *asking, "--from-batch", answers).splitlines()]
    local = [json.loads(line) for line in mmkit(folder, *asking, "--device", "cpu").splitlines()]
    usages = [[row["lineage"][-1].pop("usage") for row in rows] for rows in (batched, local)]
    assert batched == local
    # Where the user speaks next, vLLM writes the turn's opening itself; transformers is given it with the prompt.
    totals = [[usage["prompt_tokens"] + usage["completion_tokens"] for usage in counted] for counted in usages]
    assert totals[0] == totals[1]
    if command == "predict":
        assert [u["prompt_tokens"] for u in usages[0]] == [u["prompt_tokens"] for u in usages[1]]


def test_an_adapter_is_a_model_by_another_name(folder: Path, answers: str, adapter: str) -> None:
    batched = [json.loads(line) for line in mmkit(folder, *TUNED, "--from-batch", answers).splitlines()]
    assert [row["prediction"] for row in batched] == list(COLOURS)
    assert {row["lineage"][-1]["model"] for row in batched} == {"tuned"}
    base = [
        json.loads(line)
        for line in mmkit(folder, *ASKING["predict"], "--from-batch", answers, "--rejects", "r").splitlines()
    ]
    assert COLOURS[0] not in [row["prediction"] for row in base]


# --- a raw prompt


@pytest.fixture(scope="module")
def judge(folder: Path) -> str:
    """A language model that has learnt nothing but to hold the three verdicts more probable than all else.

    A constant in the first dimension of every embedding makes it through the layers, and the verdicts' rows of the
    output layer take it up; what else they hold differs with the prompt.
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    from mmkit.testing import tiny_models

    texts = [consistency.load_few_shot(None).prefix()] * 3
    tiny_models.build("causal_lm", folder / "judge", corpus=texts, vocab_size=600)
    tokenizer = AutoTokenizer.from_pretrained(folder / "judge")
    path = folder / "judge" / "model.safetensors"
    weights = load_file(path)
    weights["model.embed_tokens.weight"][:, 0] = 4.0
    for verdict in consistency.VERDICTS:
        (token,) = tokenizer(f" {verdict.capitalize()}", add_special_tokens=False).input_ids
        weights["lm_head.weight"][token, 0] += 2.0
    save_file(weights, path, metadata={"format": "pt"})
    return "judge"


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[Request]:
    """What the filter asks about the pages, with white space and braces that a template could touch."""
    inquiry = consistency.judge_by_model(consistency.load_few_shot(None))
    rows = [
        Row({**record, "question": f" \n{{{{ {record['question']} }}}}"}, number, "pages.jsonl", number + 1)
        for number, record in enumerate(read_records(str(folder / "pages.jsonl")))
    ]
    return [request for row in rows for request in inquiry.requests(row)]


@pytest.fixture(scope="module")
def verdicts(folder: Path, judge: str, prompts: list[Request]) -> Path:
    """vLLM's answers to the filter's requests about rows.jsonl and, with the prompt's tokens, to `prompts`."""
    mmkit(folder, "filter", "rows.jsonl", "--model", judge, "--to-batch", "filter.jsonl")
    requests = (folder / "filter.jsonl").read_bytes().splitlines()
    for line in map(json.loads, written(prompts, judge)):
        line["body"]["prompt_logprobs"] = 0
        requests.append(json.dumps(line).encode())
        # The same as parts, as a server with another idea of what templates want would hand it over.
        line["custom_id"] += " as parts"
        (message,) = line["body"]["messages"]
        message["content"] = [{"type": "text", "text": message["content"]}]
        requests.append(json.dumps(line).encode())
    return folder / run_batch(folder, requests, judge, "--trust-request-chat-template")


WORDS = [f" {verdict.capitalize()}" for verdict in consistency.VERDICTS]


def written(requests: list[Request], model: str) -> list[bytes]:
    """The lines that ask the requests."""
    stage = BatchRequests(Inquiry(lambda row: [requests[row.position]], lambda row, _: row, WORDS), model)
    rows = (Row({"id": request.id}, number, "in", number + 1) for number, request in enumerate(requests))
    return [json.dumps(outcome.row.record).encode() for outcome in stage(rows)]  # type: ignore[union-attr]


def test_a_raw_prompt_reaches_the_model_token_by_token(
    folder: Path, judge: str, prompts: list[Request], verdicts: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / judge)
    found = {line["custom_id"]: line for line in lines(verdicts)}
    for request in prompts:
        ids = tokenizer(request.shared_prefix + (request.prompt or "")).input_ids
        assert ids.count(tokenizer.bos_token_id) == 1
        for form in ("", " as parts"):
            body = found[custom_id(judge, request, WORDS) + form]["response"]["body"]
            assert body["prompt_logprobs"][0] is None  # of the first token nothing is said, not even which it is
            assert [int(next(iter(place))) for place in body["prompt_logprobs"][1:]] == ids[1:]
            assert body["usage"]["prompt_tokens"] == len(ids)


def test_the_judge_s_figures_are_those_of_transformers(
    folder: Path, judge: str, prompts: list[Request], verdicts: Path
) -> None:
    answers = BatchAnswers([str(verdicts)], judge)
    batched = list(answers.choose(prompts, WORDS))
    answers.close()
    engine = TransformersEngine(str(folder / judge), device="cpu", dtype="float32")
    local = list(engine.choose(prompts, WORDS))
    engine.close()
    assert [choice.error for choice in batched] == [None] * len(prompts)
    for one, other in zip(batched, local, strict=True):
        assert one.log_probs == pytest.approx(dict(other.log_probs), abs=1e-3)
    assert len({round(choice.log_probs[" Yes"], 3) for choice in batched}) == len(prompts), "the prompts matter"


def test_the_filter_decides_as_with_transformers(folder: Path, judge: str, verdicts: Path) -> None:
    asking = ("filter", "rows.jsonl", "--model", judge, "--keep", "yes,no,open")
    out = mmkit(folder, *asking, "--from-batch", verdicts.name, "--rejects", "rejects.jsonl")
    assert out == mmkit(folder, *asking[:1], "pages.jsonl", *asking[2:], "--device", "cpu")
    (reject,) = lines(folder / "rejects.jsonl")
    assert "HTTP 400: This model's maximum context length is 2048 tokens" in reject["reason"]


def test_without_trust_in_its_template_vllm_refuses_the_prompt_and_says_so(folder: Path, answers: str) -> None:
    mmkit(folder, *JUDGING, "--from-batch", answers, "--rejects", "rejects.jsonl")
    (reject,) = lines(folder / "rejects.jsonl")
    assert "--trust-request-chat-template" in reject["reason"]
