"""The synthesizer's turns become a triplet, or the caption is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stream_kit import load, put, run_stage

from mmkit.engines import Sampling, Turn
from mmkit.engines.exchange import ask
from mmkit.engines.replay import ReplayEngine
from mmkit.errors import DataError, MissingInputError, UnavailableError
from mmkit.images import blank
from mmkit.synthesis.triplets import Triplet, synthesize, triplet_of

PRECISE, INFORMATIVE = "Answer with a precise response.", "Answer with an informative response."


def turns(*pairs: tuple[str, str]) -> list[Turn]:
    return [Turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


@pytest.mark.parametrize(
    ("reply", "triplet"),
    [
        ([(f"{PRECISE}\nQ?", "p"), (f"{INFORMATIVE}\nQ?", "i")], Triplet("Q?", "p", "i")),
        ([(f"{INFORMATIVE}\nQ?", " i "), (f" {PRECISE.upper()} Q? ", "p\n")], Triplet("Q?", "p", "i")),
        (
            [
                (f"{PRECISE}\nA?", "1"),
                (f"{PRECISE}\nB?", "2"),
                (f"{INFORMATIVE}\nB?", "3"),
                (f"{INFORMATIVE}\nA?", "4"),
            ],
            Triplet("B?", "2", "3"),
        ),
        ([(f"{PRECISE}\nQ?", "p"), (f"{PRECISE}\nQ?", "later"), (f"{INFORMATIVE}\nQ?", "i")], Triplet("Q?", "p", "i")),
        ([(f"{PRECISE}\nQ?", "p"), (f"{INFORMATIVE}\nOther?", "i")], None),
        ([(f"{PRECISE}\nQ?", "p"), (f"{INFORMATIVE}\nQ?", "  ")], None),
        ([(PRECISE, "p"), (INFORMATIVE, "i")], None),
        ([("Q?", "p"), ("Q?", "i")], None),
        ([], None),
    ],
)
def test_the_first_instruction_under_both_hints_counts(reply: list[tuple[str, str]], triplet: Triplet | None) -> None:
    assert triplet_of(turns(*reply)) == triplet


def test_a_reply_that_breaks_off_gives_what_is_whole() -> None:
    whole = turns((f"{PRECISE}\nQ?", "p"), (f"{INFORMATIVE}\nQ?", "i"))
    assert triplet_of([*whole, Turn("user", PRECISE)]) == Triplet("Q?", "p", "i")
    assert triplet_of(whole[:3]) is None


def recorded(tmp_path: Path, *answers: dict[str, Any]) -> ReplayEngine:
    return ReplayEngine(put(tmp_path / "answers.jsonl", answers))


def answer(request_id: str, question: str, precise: str = "p") -> dict[str, Any]:
    reply = turns((f"{PRECISE}\n{question}", precise), (f"{INFORMATIVE}\n{question}", "i"))
    wire = [{"role": turn.role, "text": turn.text} for turn in reply]
    return {"id": request_id, "turns": wire, "usage": {"prompt_tokens": 5, "image_tokens": 3, "completion_tokens": 2}}


@pytest.fixture
def captions(tmp_path: Path) -> str:
    (tmp_path / "p.png").write_bytes(blank((4, 4)).data)
    return put(tmp_path / "in.jsonl", [{"id": "a", "caption": "c", "images": [{"path": "p.png"}], "source": "web"}])


def test_a_task_keeps_the_caption_record_and_says_where_it_is_from(captions: str, tmp_path: Path) -> None:
    inquiry = synthesize("writer", sampling=Sampling(), image_root=str(tmp_path))
    run_stage(ask(recorded(tmp_path, answer("a#0", "Q?")), inquiry), captions, tmp_path / "o.jsonl")
    (task,) = load(tmp_path / "o.jsonl")
    (entry,) = task.pop("lineage")
    assert task == {
        "id": "a#0",
        "caption": "c",
        "images": [{"path": "p.png"}],
        "source": "web",
        "question": "Q?",
        "answer": "p",
        "rationale": "i",
    }
    assert (entry["op"], entry["parents"], entry["model"]) == ("synthesize", ["a"], "writer")
    assert entry["usage"] == {"prompt_tokens": 5, "image_tokens": 3, "completion_tokens": 2}


def test_several_samples_keep_different_instructions(captions: str, tmp_path: Path) -> None:
    engine = recorded(tmp_path, answer("a#0", "Q?"), answer("a#1", "Q?", "other"), answer("a#2", "R?"))
    inquiry = synthesize("writer", sampling=Sampling(temperature=1), num_samples=3, image_root=str(tmp_path))
    summary = run_stage(ask(engine, inquiry), captions, tmp_path / "o.jsonl")
    assert [(t["id"], t["question"], t["answer"]) for t in load(tmp_path / "o.jsonl")] == [
        ("a#0", "Q?", "p"),
        ("a#1", "R?", "p"),
    ]
    assert (summary.kept, summary.written) == (1, 2)


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"id": "a", "caption": " ", "images": [{"path": "p.png"}]}, DataError, "caption: synthesize needs one"),
        ({"id": "a", "caption": "c"}, DataError, "images: synthesize needs an image"),
        ({"id": "a", "caption": "c", "images": [{"path": "no.png"}]}, MissingInputError, "image 'no.png' not found"),
        ({"id": "b", "caption": "c", "images": [{"path": "p.png"}]}, UnavailableError, "the synthesizer gave no reply"),
    ],
)
def test_rows_that_cannot_be_synthesized(
    record: dict[str, Any], error: type[Exception], message: str, captions: str, tmp_path: Path
) -> None:
    stage = ask(recorded(tmp_path), synthesize("writer", sampling=Sampling(), image_root=str(tmp_path)))
    with pytest.raises(error, match=message):
        run_stage(stage, put(tmp_path / "one.jsonl", [record]), tmp_path / "o.jsonl")
