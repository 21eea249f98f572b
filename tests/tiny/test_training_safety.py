"""What a run must not lose, mix up or pretend."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_training_resume import RUN, figures, interrupted, weights, with_tasks
from training_kit import COLOURS, CONFIG, base, pictures, samples, tuning_of

from mmkit.errors import DataError, LimitError, UsageError
from mmkit.training import Placement, Sample, output
from mmkit.training import checkpoints as store
from mmkit.training import log as logs
from mmkit.training.finetune import finetune, prepare
from mmkit.training.holdout import Holdout
from mmkit.training.job import StoredSamples
from mmkit.training.ranks import Ranks
from mmkit.training.trainer import run

pytestmark = pytest.mark.tiny
__all__ = ["base", "pictures", "samples"]  # fixtures


# --- somebody's own files


def test_a_directory_of_somebody_elses_checkpoints_is_refused_and_kept(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    theirs = tmp_path / "out" / "checkpoints" / "epoch=3" / "weights.ckpt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("days of work")
    for given in (samples, [dataclasses.replace(samples[1], images=({"path": "gone.png"},))]):
        with pytest.raises(UsageError, match="holds files that no tuning run left there"):
            finetune(given, model=base, out=tmp_path / "out", config=CONFIG)
    assert theirs.read_text() == "days of work"


def test_a_log_of_their_own_does_not_make_a_directory_ours(samples: list[Sample], base: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("theirs")
    (tmp_path / "run.json").write_text('{"name": "theirs too"}')
    with pytest.raises(UsageError, match="no tuning run left there"):
        finetune(samples, model=base, out=tmp_path, config=CONFIG)


def test_a_run_that_fails_leaves_the_finished_one_before_it_alone(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    out = finetune(samples, model=base, out=tmp_path / "out", config=CONFIG).out
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError):
        finetune([dataclasses.replace(s, messages=s.messages[:1]) for s in samples], model=base, out=out, config=CONFIG)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_prepared_job_outlives_a_command_that_fails(samples: list[Sample], base: str, tmp_path: Path) -> None:
    prepare(samples, model=base, out=tmp_path, config=CONFIG)
    with pytest.raises(UsageError):
        finetune(samples, model=base, out=tmp_path, config=dataclasses.replace(CONFIG, pack=True, fsdp=True))
    run(tmp_path, Ranks())
    assert (tmp_path / "run.json").exists()


def test_nothing_is_prepared_where_a_run_is_at_work(samples: list[Sample], base: str, tmp_path: Path) -> None:
    def meanwhile(_: Any) -> None:
        with pytest.raises(UsageError, match="another run is at work"):
            prepare(samples[:3], model=base, out=tmp_path / "out", config=CONFIG)

    report = finetune(samples, model=base, out=tmp_path / "out", config=CONFIG, on_step=meanwhile)
    assert report.rows == 8


# --- disks and kills


def test_a_disk_that_is_full_at_the_end_costs_no_training(
    samples: list[Sample], base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(samples, model=base, out=tmp_path / "whole", config=RUN)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(output, "save_weights", full)
        with pytest.raises(LimitError, match=r"cannot write to .*: No space left on device"):
            finetune(samples, model=base, out=out, config=RUN)
    steps: list[Any] = []
    finetune(samples, model=base, out=out, config=RUN, on_step=steps.append)
    assert steps == []
    assert weights(out) == weights(tmp_path / "whole") and figures(out) == figures(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["new log", "moved"])
def test_killed_where_it_hurts_the_same_command_goes_on(
    samples: list[Sample], base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """As by kill -9 while the log is cut back, and when the model has been moved and the job is being removed."""

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    rows = with_tasks(samples)
    finetune(rows, model=base, out=tmp_path / "whole", config=RUN)
    out = tmp_path / "out"
    interrupted(rows, base, out, RUN)
    with monkeypatch.context() as patch:
        patch.setattr(*((logs, "_belongs_before") if moment == "new log" else (output, "remove")), kill)
        with pytest.raises(Killed):
            finetune(rows, model=base, out=out, config=RUN)
    finetune(rows, model=base, out=out, config=RUN)
    assert weights(out) == weights(tmp_path / "whole") and figures(out) == figures(tmp_path / "whole")


def test_a_stop_at_the_end_of_an_epoch_keeps_its_validation(samples: list[Sample], base: str, tmp_path: Path) -> None:
    rows = with_tasks(samples)
    finetune(rows, model=base, out=tmp_path / "whole", config=RUN)
    at = next(row["step"] for row in figures(tmp_path / "whole") if "val_loss" in row)
    interrupted(rows, base, tmp_path / "out", RUN, step=at)
    finetune(rows, model=base, out=tmp_path / "out", config=RUN)
    assert figures(tmp_path / "out") == figures(tmp_path / "whole")


# --- the same job, and not another


def test_other_pictures_under_the_same_names_are_another_run(
    samples: list[Sample], base: str, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "pictures")
    mine = [dataclasses.replace(sample, image_root=tmp_path / "pictures") for sample in samples]
    interrupted(mine, base, tmp_path / "out", RUN)
    for colour in COLOURS:
        Image.new("RGB", (96, 96), "red").save(tmp_path / "pictures" / f"{colour}.png")
    with pytest.raises(UsageError, match="training rows"):
        finetune(mine, model=base, out=tmp_path / "out", config=RUN)


@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.jinja", "config.json"])
def test_a_model_that_was_changed_is_another_run(samples: list[Sample], base: str, tmp_path: Path, name: str) -> None:
    """To a file of the same size."""
    model = shutil.copytree(base, tmp_path / "model")
    interrupted(samples, str(model), tmp_path / "out", RUN)
    content = bytearray((model / name).read_bytes())
    content[-2] ^= 1 if name == "model.safetensors" else 0
    if name != "model.safetensors":
        content[-1:] = b" "
    (model / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"the model's files: .*{name}"):
        finetune(samples, model=str(model), out=tmp_path / "out", config=RUN)


def test_processes_that_find_different_checkpoints_stop(samples: list[Sample], base: str, tmp_path: Path) -> None:
    class Two(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return [value, (None, *value[1:])]

    interrupted(samples, base, tmp_path, RUN)
    with pytest.raises(DataError, match="does every node share that disk"):
        run(tmp_path, Two())


def test_samples_mean_the_same_from_another_directory(
    samples: list[Sample], base: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without an image root are read from where the command was given."""
    monkeypatch.chdir(pictures)
    rows = [dataclasses.replace(sample, image_root=None) for sample in samples]
    prepare(rows, model=base, out=tmp_path, config=CONFIG)
    monkeypatch.chdir(tmp_path)
    run(tmp_path, Ranks())
    assert (tmp_path / "run.json").exists()


def test_images_that_lie_in_the_row_are_trained_on(
    samples: list[Sample], base: str, pictures: Path, tmp_path: Path
) -> None:
    inline = [
        dataclasses.replace(
            s, images=tuple({"bytes": (pictures / image["path"]).read_bytes(), "path": "x"} for image in s.images)
        )
        for s in samples
    ]
    for name, rows in (("files", samples), ("inline", inline)):
        finetune(rows, model=base, out=tmp_path / name, config=CONFIG)
    assert weights(tmp_path / "files") == weights(tmp_path / "inline")


def test_stored_samples_are_the_samples(samples: list[Sample], base: str, tmp_path: Path) -> None:
    job, _ = prepare(samples, model=base, out=tmp_path, config=CONFIG)
    stored = job.samples()
    assert isinstance(stored, StoredSamples) and list(stored) == samples
    with pytest.raises(IndexError):
        stored[8]


# --- figures


def test_no_image_is_on_both_sides() -> None:
    """Rows that share an image go together, directly, through a third row, and however its path is written."""

    def row(*images: str) -> Sample:
        return Sample(" ".join(images), (), tuple({"path": image} for image in images))

    families = [
        [row(f"{n}.png"), row(f"./{n}.png", f"a/../{n}-b.png"), row(f"{n}-b.png", f"{n}-c.png"), row(f"{n}-c.png")]
        for n in range(200)
    ]
    holdout = Holdout([row for family in families for row in family], 0.3, seed=0)
    sides = [{holdout.holds(row) for row in family} for family in families]
    assert all(len(side) == 1 for side in sides)
    assert 40 <= sum(True in side for side in sides) <= 80


def test_validation_measures_rows_of_weight_0_too(samples: list[Sample], base: str, tmp_path: Path) -> None:
    rows = [dataclasses.replace(s, weight=0.0 if s.task == "b" else 1.0) for s in with_tasks(samples)]
    config = dataclasses.replace(CONFIG, val_size=0.5, seed=1)
    report = finetune(rows, model=base, out=tmp_path / "out", config=config)
    assert report.validation is not None and report.validation.task_losses.keys() == {"b"}
    json.loads((report.out / "run.json").read_text(), parse_constant=pytest.fail)


def losses_of_one_step(rows: Sequence[Sample], base: str, out: Path, **settings: Any) -> float:
    return finetune(rows, model=base, out=out, config=dataclasses.replace(CONFIG, **settings)).losses[0]


def test_divided_by_tokens_a_row_of_weight_0_counts_with_its_tokens(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    def loss(weight: float) -> float:
        rows = [dataclasses.replace(s, weight=weight if i % 2 else 1.0) for i, s in enumerate(samples)]
        return losses_of_one_step(rows, base, tmp_path / str(weight), weight_norm="tokens", dtype="float64")

    assert loss(0.0) == pytest.approx(loss(1e-30), rel=1e-12)
    assert loss(0.0) < 0.8 * loss(1.0)


def test_weights_too_large_to_add_up_are_an_error_and_no_loss_of_0(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    rows = [dataclasses.replace(sample, weight=1e308) for sample in samples]
    with pytest.raises(LimitError, match="step 1: the sum of λ is inf"):
        finetune(rows, model=base, out=tmp_path / "out", config=CONFIG)


def test_a_step_of_a_finished_optimizer_is_restored_where_fused_adamw_wants_it(
    samples: list[Sample], base: str, tmp_path: Path
) -> None:
    """On a GPU its step counts lie beside the parameters."""
    interrupted(samples, base, tmp_path, RUN)
    checkpoint = store.latest(tmp_path / "checkpoints")
    assert checkpoint is not None
    tuning = tuning_of(samples, base, tmp_path / "other", RUN)
    tuning.optimizer.defaults["fused"] = True
    moved: list[torch.Tensor] = []
    original = torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        moved.append(self)
        return original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", to)
        store.restore_optimizer(tuning.net, tuning.optimizer, checkpoint)
    assert sum(tensor.dim() == 0 for tensor in moved) == len(tuning.parameters)


@pytest.mark.parametrize(
    ("settings", "placement", "said"),
    [
        ({"fsdp": True}, Placement(nproc=1), "there is one"),
        ({"fsdp": True, "train": "projector"}, Placement(nproc=2), "of which --train projector trains nothing"),
        ({"task_sampling": "weights"}, Placement(nproc=1), "needs the weights of the tasks"),
        ({"train": "lora", "lora_targets": "q_prj"}, Placement(nproc=1), "'q_prj'"),
        ({"balance": "tla", "weight_norm": "tokens"}, Placement(nproc=1), "mean of the tasks' means"),
    ],
)
def test_impossible_settings_are_found_before_a_row_is_read(
    base: str, tmp_path: Path, settings: dict[str, Any], placement: Placement, said: str
) -> None:
    def unread() -> Any:
        yield pytest.fail("a row was read")

    config = dataclasses.replace(CONFIG, **settings)
    with pytest.raises(UsageError, match=said):
        prepare(unread(), model=base, out=tmp_path / "out", config=config, placement=placement)
    assert not (tmp_path / "out").exists()
