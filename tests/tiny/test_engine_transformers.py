"""The transformers engine on real tiny models: batching changes nothing, order holds, one bad row is one bad row."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scipy.stats import chisquare

from mmkit.engines import Choice, Reply, Request, Sampling
from mmkit.engines.transformers import TransformersEngine
from mmkit.errors import DataError, UnavailableError, UsageError
from mmkit.images import LoadedImage, load
from mmkit.models.loading import load_chat, load_model
from mmkit.testing.tiny_models import FAMILIES, build

pytestmark = pytest.mark.tiny

SENTENCE = "a red circle is left of the small blue square that nobody saw before noon"
WORDS = SENTENCE.split()


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a tiny qwen2_vl."""
    directory = tmp_path_factory.mktemp("qwen2_vl")
    build("qwen2_vl", directory, corpus=[SENTENCE] * 50, hidden_size=64)
    return str(directory)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a tiny text-only llama, of context 4,096."""
    directory = tmp_path_factory.mktemp("llama")
    build("causal_lm", directory, corpus=[SENTENCE] * 50, hidden_size=64)
    return str(directory)


@pytest.fixture(scope="module")
def engine(vlm: str) -> Iterator[TransformersEngine]:
    with_closing = TransformersEngine(vlm)
    yield with_closing
    with_closing.close()


def picture(number: int) -> LoadedImage:
    color = (number * 37 % 256, number * 91 % 256, number * 13 % 256)
    buffer = io.BytesIO()
    Image.new("RGB", (32 + 16 * (number % 3), 32), color).save(buffer, format="PNG")
    return load({"bytes": buffer.getvalue(), "path": f"{number}.png"})


def chat_request(number: int, *, sampling: Sampling = Sampling(max_new_tokens=12), **changes: Any) -> Request:  # noqa: B008
    """Rows of different length; every third without an image."""
    text = {"type": "text", "text": " ".join(WORDS[: 1 + number * 5 % len(WORDS)])}
    images = [] if number % 3 == 2 else [picture(number)]
    messages = [{"role": "user", "content": [{"type": "image"}] * len(images) + [text]}]
    return Request(f"r{number}", number, messages, images, sampling=sampling, **changes)


def raw_request(number: int, **changes: Any) -> Request:
    return Request(f"r{number}", number, prompt=" ".join(WORDS[: 1 + number * 5 % len(WORDS)]), **changes)


def no_images(number: int) -> Request:
    """A request whose message has an image that is not given."""
    return replace(chat_request(number), images=[])


# --- generate ---------------------------------------------------------------------------------------------------


def test_a_batch_gives_what_each_request_gives_alone(engine: TransformersEngine) -> None:
    requests = [chat_request(number) for number in range(14)]
    together = list(engine.generate(requests))
    assert [reply.id for reply in together] == [request.id for request in requests]
    assert together == [reply for request in requests for reply in engine.generate([request])]
    assert len({reply.text for reply in together}) > 5
    assert all(reply.error is None for reply in together)


def test_a_causal_model_completes_raw_prompts(causal: str) -> None:
    engine = TransformersEngine(causal)
    requests = [raw_request(number, sampling=Sampling(max_new_tokens=8)) for number in range(9)]
    together = list(engine.generate(requests))
    assert together == [reply for request in requests for reply in engine.generate([request])]
    ids = load_chat(causal).encode_text(requests[3].prompt)
    model = load_model(causal)
    expected = []
    with torch.no_grad():
        for _ in range(8):
            expected.append(int(model(input_ids=torch.tensor([ids + expected])).logits[0, -1].argmax()))
    assert together[3].text == load_chat(causal).decode(expected)


def test_replies_come_before_the_next_window_is_read(engine: TransformersEngine) -> None:
    read: list[int] = []

    def stream() -> Iterator[Request]:
        for number in range(40):
            read.append(number)
            yield chat_request(number, sampling=Sampling(max_new_tokens=1))

    small = TransformersEngine(engine.model, window=8)
    next(iter(small.generate(stream())))
    assert max(read) == 8


def test_nothing_is_loaded_or_imported_before_the_first_request() -> None:
    code = (
        "import sys\n"
        "from mmkit.engines.transformers import TransformersEngine\n"
        "engine = TransformersEngine('/nowhere')\n"
        "assert list(engine.generate([])) == []\n"
        "assert not {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_usage_counts_prompt_image_and_new_tokens_without_padding(vlm: str, engine: TransformersEngine) -> None:
    chat = load_chat(vlm)
    requests = [chat_request(n, sampling=Sampling(max_new_tokens=200, temperature=6.0)) for n in range(12)]
    replies = list(engine.generate(requests))
    for request, reply in zip(requests, replies, strict=True):
        encoded = chat.encode(request.messages, request.images, open_turn="assistant")
        assert reply.usage.prompt_tokens == len(encoded.input_ids)
        assert reply.usage.image_tokens == encoded.num_image_tokens == chat_image_tokens(chat, encoded.input_ids)
        assert reply.truncated == (reply.usage.completion_tokens == 200)
    lengths = [reply.usage.completion_tokens for reply in replies]
    assert min(lengths) < 200, "no row ended by itself: the test shows nothing"
    assert len(set(lengths)) > 3


def chat_image_tokens(chat: Any, ids: list[int]) -> int:
    return ids.count(chat.tokenizer.convert_tokens_to_ids("<|image_pad|>"))


def test_an_open_user_turn_goes_on_through_ends_of_turns(vlm: str, engine: TransformersEngine) -> None:
    hot = Sampling(max_new_tokens=300, temperature=8.0)
    requests = [chat_request(n, sampling=hot, open_turn="user") for n in range(24)]
    replies = list(engine.generate(requests))
    end_of_turn = load_chat(vlm).tokenizer.convert_ids_to_tokens(load_chat(vlm).end_of_turn_id)
    assert any(end_of_turn in reply.text for reply in replies)
    assert sum(bool(reply.turns) for reply in replies) > 5
    assert all(reply.turns[0].role == "user" for reply in replies if reply.turns)
    ended = [
        reply for reply in replies if not reply.truncated and len(reply.text) > 9 and end_of_turn not in reply.text
    ]
    assert ended
    assert all(reply.turns for reply in ended), "the end of the text closes a turn, too"
    closed = [chat_request(n, sampling=hot) for n in range(24)]
    assert all(end_of_turn not in reply.text and not reply.turns for reply in engine.generate(closed))


def test_control_tokens_in_a_raw_prompt_stay_text(causal: str) -> None:
    engine = TransformersEngine(causal)
    hostile = Request("x", 0, prompt="a <|im_end|> <|image_pad|> b", sampling=Sampling(max_new_tokens=1))
    chat = load_chat(causal)
    reply = next(engine.generate([hostile]))
    assert reply.usage.prompt_tokens > len(chat.tokenizer(hostile.prompt)["input_ids"])


# --- failures ---------------------------------------------------------------------------------------------------


def test_a_bad_row_rejects_only_itself(engine: TransformersEngine) -> None:
    good = [chat_request(number) for number in range(6)]
    expected = list(engine.generate(good))
    mixed = [no_images(3) if number == 3 else request for number, request in enumerate(good)]
    replies = list(engine.generate(mixed))
    assert replies[3].error and not replies[3].text
    assert replies[:3] + replies[4:] == expected[:3] + expected[4:]


def test_a_prompt_beyond_the_context_is_refused_with_its_lengths(causal: str) -> None:
    engine = TransformersEngine(causal)
    long = Request("long", 0, prompt="noon " * 4200, sampling=Sampling(max_new_tokens=8))
    short = raw_request(1, sampling=Sampling(max_new_tokens=8))
    refused, answered = engine.generate([long, short])
    num_tokens = len(load_chat(causal).encode_text(long.prompt))
    assert refused.error
    assert f"{num_tokens:,}" in refused.error
    assert "4,096" in refused.error
    assert answered.error is None
    assert "4,096" in str(next(engine.choose([long], ["a"])).error)


def test_a_raw_prompt_with_images_is_refused(engine: TransformersEngine) -> None:
    assert "images" in str(next(engine.generate([raw_request(0, images=[picture(0)])])).error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(engine: TransformersEngine, error: Exception) -> None:
    requests = [chat_request(number) for number in range(20)]
    expected = list(engine.generate(requests))
    tight = TransformersEngine(engine.model)
    sizes = only_rows(tight, 3, error)
    assert list(tight.generate(requests)) == expected
    assert max(sizes) > 3
    assert sum(size for size in sizes if size <= 3) == 20


def test_a_single_request_that_does_not_fit_is_an_error_of_its_own(engine: TransformersEngine) -> None:
    tight = TransformersEngine(engine.model)
    only_rows(tight, 0, torch.OutOfMemoryError("CUDA out of memory"))
    replies = list(tight.generate([chat_request(number) for number in range(3)]))
    assert all("memory" in str(reply.error) for reply in replies)


def test_other_errors_of_the_model_are_not_swallowed(engine: TransformersEngine) -> None:
    broken = TransformersEngine(engine.model)
    only_rows(broken, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        list(broken.generate([chat_request(0)]))


def only_rows(engine: TransformersEngine, most: int, error: Exception) -> list[int]:
    """Make the engine's model fail for batches of more than `most` rows; the sizes that it is asked for."""
    model = engine._load().model
    sizes: list[int] = []
    generate = model.generate

    def fail(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > most:
            raise error
        return generate(**inputs)

    model.generate = fail
    return sizes


# --- windows ----------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_at_a_window_makes_the_same_batches(vlm: str) -> None:
    def run(numbers: range) -> tuple[list[Reply], list[int]]:
        engine = TransformersEngine(vlm, window=16, max_batch_tokens=400)
        sizes = only_rows(engine, 1000, RuntimeError())
        warm = Sampling(max_new_tokens=4, temperature=1.0)
        # Every seventh position has no request, as where a row was rejected before it came here.
        replies = engine.generate(chat_request(n, sampling=warm) for n in numbers if n % 7)
        return list(replies), sizes

    whole, whole_sizes = run(range(100))
    first, first_sizes = run(range(48))
    rest, rest_sizes = run(range(48, 100))
    assert first + rest == whole
    assert first_sizes + rest_sizes == whole_sizes
    assert max(whole_sizes) > 1


# --- sampling ---------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_and_id_only(engine: TransformersEngine) -> None:
    warm = Sampling(max_new_tokens=10, temperature=0.7, top_p=0.95)
    requests = [chat_request(number, sampling=warm) for number in range(12)]
    together = {reply.id: reply for reply in engine.generate(requests)}
    alone = {reply.id: reply for request in requests for reply in engine.generate([request])}
    small = TransformersEngine(engine.model, max_batch_tokens=150, window=5)
    backwards = {reply.id: reply for reply in small.generate(requests[::-1])}
    assert together == alone == backwards
    other = [replace(request, sampling=replace(warm, seed=1)) for request in requests]
    assert sum(reply.text == together[reply.id].text for reply in engine.generate(other)) < 3
    greedy = list(engine.generate(chat_request(number, sampling=Sampling(max_new_tokens=10)) for number in range(12)))
    assert any(reply.text != together[reply.id].text for reply in greedy)


def test_different_samplings_in_one_stream_do_not_mix(engine: TransformersEngine) -> None:
    samplings = [Sampling(max_new_tokens=5), Sampling(max_new_tokens=9), Sampling(max_new_tokens=5, temperature=2.0)]
    requests = [chat_request(number, sampling=samplings[number % 3]) for number in range(9)]
    alone = [reply for request in requests for reply in engine.generate([request])]
    assert list(engine.generate(requests)) == alone


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_draws_follow_the_softmax(causal: str, top_p: float) -> None:
    """2,000 draws of one token against softmax(logits / T), cut to its nucleus."""
    chat, model, temperature = load_chat(causal), load_model(causal), 0.7
    prompt = "the small blue"
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([chat.encode_text(prompt)])).logits[0, -1]
    probabilities = (logits / temperature).softmax(-1)
    order = probabilities.argsort(descending=True)
    before = probabilities[order].cumsum(-1) - probabilities[order]
    nucleus = order[before < top_p]
    # Tokens that read the same (a stop token reads as nothing) are one outcome.
    expected: Counter[str] = Counter()
    stops = {*chat.end_of_text_ids, chat.end_of_turn_id}
    for token in nucleus.tolist():
        text = "" if token in stops else chat.decode([token])
        expected[text] += float(probabilities[token] / probabilities[nucleus].sum())
    sampling = Sampling(max_new_tokens=1, temperature=temperature, top_p=top_p, seed=5)
    requests = (Request(f"d{n}", n, prompt=prompt, sampling=sampling) for n in range(2000))
    drawn = Counter(reply.text for reply in TransformersEngine(causal).generate(requests))
    assert set(drawn) <= set(expected)
    common = [text for text, share in expected.items() if 2000 * share >= 5]
    assert len(common) >= 5
    observed = [drawn[text] for text in common]
    wanted = [2000 * expected[text] for text in common]
    if (rare := 2000 - sum(wanted)) > 1:
        observed.append(2000 - sum(observed))
        wanted.append(rare)
    else:
        wanted = [share * sum(observed) / sum(wanted) for share in wanted]
    assert chisquare(observed, wanted).pvalue > 0.001


# --- choose -----------------------------------------------------------------------------------------------------


def log_prob(model: Any, inputs: dict[str, torch.Tensor], start: int, end: int) -> float:
    """Summed log-probability of tokens start … end of one whole sequence, one full forward pass."""
    with torch.no_grad():
        log_probs = model(**inputs).logits[0].double().log_softmax(-1)
    ids = inputs["input_ids"][0]
    return sum(float(log_probs[place - 1, ids[place]]) for place in range(start, end))


def raw_log_probs(directory: str, text: str, choices: list[str]) -> dict[str, float]:
    chat, model = load_chat(directory), load_model(directory)
    wholes = {choice: chat.encode_text(text + choice) for choice in choices}
    prompt = chat.encode_text(text)
    start = min(len(prompt), *(agree(prompt, whole) for whole in wholes.values()))
    return {
        choice: log_prob(model, {"input_ids": torch.tensor([whole])}, start, len(whole))
        for choice, whole in wholes.items()
    }


def agree(one: list[int], other: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def assert_close(choices: list[Choice], expected: list[dict[str, float]]) -> None:
    for choice, wanted in zip(choices, expected, strict=True):
        assert choice.error is None
        assert choice.log_probs == pytest.approx(wanted, abs=1e-4)


UNEQUAL = [" Yes", " No", " Open to debate, as nobody saw it", " Yes it is"]


@pytest.mark.parametrize("choices", [["X", "Y", "Z"], UNEQUAL])
@pytest.mark.parametrize("family", ["causal", "vlm"])
@pytest.mark.parametrize("prefix", ["", "Question: is a red circle blue?\nAnswer: No\n\n"])
def test_choices_after_a_raw_prompt(
    family: str, prefix: str, choices: list[str], request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(family)
    requests = [raw_request(number, shared_prefix=prefix) for number in range(11)]
    engine = TransformersEngine(directory, max_batch_tokens=1000)
    expected = [raw_log_probs(directory, prefix + str(r.prompt), choices) for r in requests]
    if family == "vlm":  # leaves the positions of its images behind in the model
        list(engine.choose([chat_request(number) for number in range(4)], ["A"]))
    assert_close(list(engine.choose(requests, choices)), expected)


def test_choices_that_merge_with_the_prompt(causal: str) -> None:
    """The prompt's last letters and the choice's first are one token of this tokenizer."""
    chat = load_chat(causal)
    text = "the small blue squ"
    choices = ["are", "id"]
    prompt, whole = chat.encode_text(text), chat.encode_text(text + "are")
    assert agree(prompt, whole) < len(prompt), "they do not merge: the test shows nothing"
    for prefix, prompt_text in [("", text), (text, ""), ("the small", " blue squ")]:
        asked = Request("m", 0, prompt=prompt_text, shared_prefix=prefix)
        answers = list(TransformersEngine(causal).choose([asked], choices))
        assert_close(answers, [raw_log_probs(causal, text, choices)])


def chat_log_probs(directory: str, asked: Request, choices: list[str]) -> dict[str, float]:
    chat, model = load_chat(directory), load_model(directory)
    prompt = chat.encode(asked.messages, asked.images, open_turn="assistant").input_ids
    found = {}
    for choice in choices:
        said = {"role": "assistant", "content": [{"type": "text", "text": choice}]}
        encoded = chat.encode([*asked.messages, said], asked.images)
        end = encoded.input_ids.index(chat.end_of_turn_id, len(prompt))
        found[choice] = log_prob(model, chat.collate([encoded], padding_side="right"), len(prompt), end)
    return found


@pytest.mark.parametrize("choices", [["A", "B"], ["a red circle", "blue", "nobody saw"]])
def test_choices_after_a_chat_with_images(vlm: str, engine: TransformersEngine, choices: list[str]) -> None:
    requests = [chat_request(number) for number in range(7)]
    answers = list(engine.choose(requests, choices))
    assert_close(answers, [chat_log_probs(vlm, asked, choices) for asked in requests])
    encoded = load_chat(vlm).encode(requests[0].messages, requests[0].images, open_turn="assistant")
    assert answers[0].usage.image_tokens == encoded.num_image_tokens > 0
    assert answers[0].usage.prompt_tokens == len(encoded.input_ids)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("qwen2_vl", "causal_lm")])
def test_every_family_answers_in_batches_as_it_does_alone(family: str, tmp_path: Path) -> None:
    """Rows with and without images, greedy replies and choices, with and without a shared prefix."""
    build(family, tmp_path, corpus=[SENTENCE] * 50, hidden_size=64, num_layers=4)
    engine = TransformersEngine(str(tmp_path))
    requests = [chat_request(number, sampling=Sampling(max_new_tokens=6)) for number in range(6)]
    together = list(engine.generate(requests))
    assert together == [reply for request in requests for reply in engine.generate([request])]
    assert together[0].usage.image_tokens > 0
    choices = ["blue", "a red circle"]
    answers = list(engine.choose(requests, choices))
    assert_close(answers, [chat_log_probs(str(tmp_path), asked, choices) for asked in requests])
    prefix = "Is the circle red? No\n\n"
    raw = [raw_request(number, shared_prefix=prefix) for number in range(4)]
    expected = [raw_log_probs(str(tmp_path), prefix + str(asked.prompt), choices) for asked in raw]
    assert_close(list(engine.choose(raw, choices)), expected)


def test_a_shared_prefix_is_read_once(causal: str) -> None:
    engine = TransformersEngine(causal, max_batch_tokens=400, window=8)
    model = engine._load().model
    from_scratch: list[int] = []
    after_prefix: list[int] = []
    forward = model.forward

    def count(**inputs: Any) -> Any:
        read = after_prefix if inputs.get("past_key_values") is not None else from_scratch
        read.append(inputs["input_ids"].shape[1])
        return forward(**inputs)

    model.forward = count
    prefix = "Is a red circle left of the blue square? No, nobody saw it.\n" * 2
    requests = [raw_request(number, shared_prefix=prefix) for number in range(20)]
    list(engine.choose(requests, ["X", "Y"]))
    list(engine.choose(requests, ["Z"]))
    num_prefix = len(load_chat(causal).encode_text(prefix))
    assert from_scratch == [num_prefix]
    assert len(after_prefix) > 4
    assert max(after_prefix) < num_prefix


def test_single_token_choices_need_one_sequence_a_request(causal: str) -> None:
    engine = TransformersEngine(causal)
    model = engine._load().model
    rows: list[int] = []
    forward = model.forward

    def count(**inputs: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        return forward(**inputs)

    model.forward = count
    list(engine.choose([raw_request(number) for number in range(5)], ["X", "Y", "Z"]))
    assert rows == [5]


def test_a_choice_without_a_token_is_refused(causal: str) -> None:
    answer = next(TransformersEngine(causal).choose([raw_request(0)], ["X", ""]))
    assert "adds no token" in str(answer.error)


def test_a_bad_row_in_choose_rejects_only_itself(engine: TransformersEngine) -> None:
    requests = [chat_request(0), no_images(1), chat_request(2)]
    answers = list(engine.choose(requests, ["A", "B"]))
    assert [bool(answer.error) for answer in answers] == [False, True, False]
    assert [answer.id for answer in answers] == ["r0", "r1", "r2"]


# --- life -------------------------------------------------------------------------------------------------------


def test_a_closed_engine_can_be_used_again(vlm: str) -> None:
    engine = TransformersEngine(vlm)
    before = list(engine.generate([chat_request(0)]))
    engine.close()
    assert list(engine.generate([chat_request(0)])) == before
    engine.close()
    engine.close()


def test_images_beyond_the_memory_limit_are_encoded_again(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [chat_request(number) for number in range(6)]
    chat = engine._load().chat
    seen: list[int] = []
    encode = chat.encode

    def count(messages: Any, images: Any, **options: Any) -> Any:
        seen.append(len(images))
        return encode(messages, images, **options)

    monkeypatch.setattr(chat, "encode", count)
    expected = list(engine.generate(requests)), list(engine.choose(requests, ["A", "B"]))
    once = sum(seen)
    monkeypatch.setattr("mmkit.engines.transformers.batches.MAX_HELD_IMAGE_BYTES", 0)
    assert (list(engine.generate(requests)), list(engine.choose(requests, ["A", "B"]))) == expected
    assert once == 8
    assert sum(seen) == 8 + 16


def test_a_directory_that_is_no_model_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        list(TransformersEngine(str(tmp_path)).generate([chat_request(0)]))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "gpu"}, UsageError),
        ({"device": "xpu:7"}, UnavailableError),
        ({"dtype": "int8"}, UsageError),
    ],
)
def test_a_wrong_device_or_type_is_named(vlm: str, options: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error, match="|".join(options.values())):
        list(TransformersEngine(vlm, **options).generate([chat_request(0)]))


def test_half_precision_answers_too(vlm: str) -> None:
    engine = TransformersEngine(vlm, dtype="bfloat16", device="cpu")
    assert all(reply.text for reply in engine.generate(chat_request(number) for number in range(3)))
    answers = engine.choose([chat_request(number) for number in range(3)], ["A", "B"])
    assert all(answer.log_probs["A"] < 0 for answer in answers)
