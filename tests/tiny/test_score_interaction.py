"""score-interaction with real tiny models: what may not change a score, and what each option changes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from distributed_kit import ENVIRONMENT

from mmkit.balance.measure import Measurement, Method
from mmkit.engines import Sampling
from mmkit.engines.transformers import TransformersEngine
from mmkit.streams import StreamOptions, run
from mmkit.testing.planted import interaction

pytestmark = pytest.mark.tiny

MMKIT = [sys.executable, "-c", "import sys; sys.argv[0] = 'mmkit'; from mmkit.cli.main import main; main()"]
TASKS = ("redundant-page", "synergy-xor", "unique-text")
EACH = 8
VIEWS = ("text", "image", "both")

Measure = Callable[..., tuple[list[dict[str, Any]], Measurement]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few records of each of three planted tasks in tasks.jsonl, in another order in shuffled.jsonl; their images."""
    folder = tmp_path_factory.mktemp("planted")
    rows = []
    for task in TASKS:
        for scene, record in interaction.scenes(task, EACH):
            (folder / scene.image["path"]).parent.mkdir(parents=True, exist_ok=True)
            scene.picture.save(folder / scene.image["path"])
            rows.append(record)
    put(folder / "tasks.jsonl", rows)
    random.Random(3).shuffle(rows)
    put(folder / "shuffled.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def engine(tiny_model: Callable[[str], Path]) -> Iterator[TransformersEngine]:
    """A small vision-language model, loaded once, that takes all requests in a few batches."""
    engine = TransformersEngine(str(tiny_model("qwen2_vl")), device="cpu")
    yield engine
    engine.close()


@pytest.fixture
def measure(folder: Path, engine: TransformersEngine, tmp_path: Path) -> Measure:
    """Runs the stage on a file of `folder`, with `engine` unless told otherwise; what it gives, and the stage."""

    def measured(
        source: str | Path = "tasks.jsonl",
        *,
        engines: dict[Any, Any] | None = None,
        models: dict[Any, Any] | None = None,
        output: Any = "samples",
        shard: tuple[int, int] | None = None,
        **method: Any,
    ) -> tuple[list[dict[str, Any]], Measurement]:
        chosen = Method(sampling=Sampling(max_new_tokens=3), image_root=str(folder), **method)
        engines = {"vlm": engine} if engines is None else engines
        models = dict.fromkeys(VIEWS, "vlm") if models is None else models
        stage = Measurement(chosen, models, lambda name: engines[name], output)
        out = tmp_path / "out.jsonl"
        options = StreamOptions(inputs=[str(folder / source)], output=str(out), shard=shard)
        run(stage, options, command="score-interaction", resumable=False)
        return [orjson.loads(line) for line in out.read_bytes().splitlines()], stage

    return measured


def put(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_order_batches_windows_and_shards_change_no_score(
    measure: Measure, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    drawn = {"draws": 3, "size": 4}
    expected, _ = measure(output="rows", **drawn)
    assert [row["task"] for row in expected] == sorted(TASKS)
    model = str(tiny_model("qwen2_vl"))
    alone = TransformersEngine(model, device="cpu", window=5, max_batch_tokens=1)
    assert measure("shuffled.jsonl", engines={"vlm": alone}, output="rows", **drawn)[0] == expected
    samples = [row for i in range(2) for row in measure(shard=(i, 2), **drawn)[0]]
    together = put(tmp_path / "samples.jsonl", samples)
    assert measure(together, models={}, output="rows", **drawn)[0] == expected


def test_what_is_the_same_is_asked_once_and_paid_once(measure: Measure) -> None:
    samples, stage = measure()
    texts = {(row["context"], row["question"], *row["choices"]) for row in samples}
    assert len(texts) < len(samples)
    assert f"asked once each: {len(samples)} both, {len(samples)} image, {len(texts)} text" in stage.notes()
    assert all(row["lineage"][0]["usage"]["image_tokens"] == 18 for row in samples), "nine in each view that has one"


def test_a_blank_image_is_seen_and_an_absent_one_is_not(measure: Measure) -> None:
    dropped, blank = (measure(absent=absent)[0] for absent in ("drop", "blank"))
    paid = [sum(row["lineage"][0]["usage"]["image_tokens"] for row in rows) for rows in (dropped, blank)]
    assert paid[1] > paid[0]
    assert [row["predictions"]["both"] for row in dropped] == [row["predictions"]["both"] for row in blank]
    assert any(a["predictions"]["text"] != b["predictions"]["text"] for a, b in zip(dropped, blank, strict=True))


@pytest.mark.parametrize("form", ["text", "letter"])
def test_a_likelihood_depends_on_no_batch_beyond_rounding(
    measure: Measure, tiny_model: Callable[[str], Path], form: Any
) -> None:
    method: dict[str, Any] = {"similarity": "likelihood", "choice_form": form}
    alone = TransformersEngine(str(tiny_model("qwen2_vl")), device="cpu", window=1)
    samples, others = measure(**method)[0], measure("shuffled.jsonl", engines={"vlm": alone}, **method)[0]
    for one, other in zip(samples, others, strict=True):
        assert one["predictions"] == other["predictions"]
        assert one["delta"] == pytest.approx(other["delta"], abs=1e-4)
        for view in VIEWS:
            assert one["choice_log_probs"][view] == pytest.approx(other["choice_log_probs"][view], abs=1e-4)


def test_a_language_model_may_predict_from_the_text(measure: Measure, tiny_model: Callable[[str], Path]) -> None:
    vlm, llm = (TransformersEngine(str(tiny_model(name)), device="cpu") for name in ("qwen2_vl", "causal_lm"))
    models = {"text": "llm", "image": "vlm", "both": "vlm"}
    samples, _ = measure(engines={"vlm": vlm, "llm": llm}, models=models)
    for row in samples:
        assert [entry["model"] for entry in row["lineage"]] == [llm.model, vlm.model]
        assert [entry["usage"]["image_tokens"] for entry in row["lineage"]] == [0, 18]


def test_killed_in_the_middle_it_goes_on_by_its_cache(folder: Path, tiny_model: Callable[[str], Path]) -> None:
    # One position a window: what is asked is batched alike, whatever is known of the rest.
    asked = ["--model", str(tiny_model("qwen2_vl")), "--device", "cpu", "--max-new-tokens", "3", "--window", "1"]
    command = [*MMKIT, "score-interaction", "tasks.jsonl", *asked]

    def ended(*options: str) -> tuple[bytes, int]:
        done = subprocess.run([*command, *options], cwd=folder, env=ENVIRONMENT, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout, int(done.stderr.decode().partition(" replies, ")[0].rpartition(" ")[2])

    whole, needed = ended()
    process = subprocess.Popen(
        [*command, "--cache", "replies"], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    written, deadline = folder / "replies" / "replies.sqlite3-wal", time.monotonic() + 200
    while not (written.exists() and written.stat().st_size > 40_000):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    rows, asked_again = ended("--cache", "replies")
    assert rows == whole
    assert 0 < asked_again < needed
