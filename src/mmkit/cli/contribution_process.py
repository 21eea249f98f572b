"""A process of `measure-contribution`: it trains or evaluates one model, and ends with the process that started it.

    python -m mmkit.cli.contribution_process check|train|evaluate JOB

JOB is a JSON object. The standard input is a pipe from the process that started it: where that one is killed, the
pipe closes, and no training is left behind on a device.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkit import console
from mmkit.errors import MmkitError, UsageError, missing_module

if TYPE_CHECKING:
    from mmkit.training.samples import Refused, Sample


def check(job: Mapping[str, Any]) -> None:
    """Look whether `model` can be trained on all of `rows` by `config`, in `folder`. Raises why not."""
    from mmkit.training.finetune import prepare

    prepare(out=Path(job["folder"]) / "job", **_arguments(job))


def train(job: Mapping[str, Any]) -> None:
    """Train `model` on `rows` by `config` and leave it in `out`."""
    from mmkit.training.finetune import finetune

    try:
        finetune(out=Path(job["out"]), **_arguments(job))
    except UsageError:
        # What lies there is this training by its content. A checkpoint that cannot be gone on from, as with another
        # number of GPUs, is in nobody's way.
        finetune(out=Path(job["out"]), resume=False, **_arguments(job))


def _arguments(job: Mapping[str, Any]) -> dict[str, Any]:
    from mmkit.cli.training_rows import read_samples
    from mmkit.training.config import Placement, TuneConfig

    return {
        "samples": map(_by_task, read_samples([job["rows"]], image_root=job["image_root"])),
        "model": job["model"],
        "config": TuneConfig(**job["config"]),
        "placement": Placement(job["nproc"]),
    }


def _by_task(sample: Sample | Refused) -> Sample | Refused:
    """The sample as messages are to name it: nobody knows the file that it was written to for us."""
    from mmkit.training.samples import Sample

    return replace(sample, where=f"task {sample.task!r}") if isinstance(sample, Sample) else sample


def evaluate(job: Mapping[str, Any]) -> None:
    """Have `model` answer `rows`, and write what each task's answers are worth to `values`."""
    import orjson

    from mmkit.cli.engine_options import Model
    from mmkit.engines import Sampling
    from mmkit.engines.exchange import ask
    from mmkit.evaluation.predict import predict
    from mmkit.streams import StreamOptions, run

    sampling = Sampling(max_new_tokens=job["max_new_tokens"], temperature=0.0, top_p=1.0, seed=0)
    options = Model(model=job["model"], adapter=job["adapter"], engine=job["engine"], device=job["device"])
    with options.opened() as engine:
        run(
            ask(engine, predict(engine.model, sampling=sampling, image_root=job["image_root"])),
            StreamOptions(inputs=[job["rows"]], output=job["predictions"]),
            command="predict",  # what else makes it the same run, the name of `predictions` says
            window=engine.window,
        )
    Path(job["values"]).write_bytes(orjson.dumps(_values(job["predictions"], job["metric"], job["rule"])))


def _values(predictions: str, metric: str | None, rule: str | None) -> dict[str, Any]:
    """The metric, the value (larger is better) and its standard error, of each task."""
    from mmkit.evaluation.aggregate import Aggregate
    from mmkit.evaluation.intervals import Z95
    from mmkit.evaluation.scoring import Scorer
    from mmkit.streams import read_records

    scorer, collected = Scorer(metric, rule), Aggregate()
    for record in read_records(predictions):
        sample = scorer.score(record)
        if sample is not None:
            collected.add(sample)
    for sample in scorer.rest():
        collected.add(sample)
    tasks = {}
    for row in collected.rows():
        sign = "" if row.higher_is_better else "-"
        error = None if row.ci95 is None else (row.ci95[1] - row.ci95[0]) / (2 * Z95)
        tasks[row.task] = {
            "metric": f"{sign}{row.metric}{f'/{rule}' if rule else ''}",
            "value": -row.value if sign else row.value,
            "error": error,
        }
    return tasks


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def main(task: str, arguments: str) -> int:
    """Do it; the exit code is an error's own."""
    import orjson

    threading.Thread(target=_end_with_parent, daemon=True).start()
    functions: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
        "check": check,
        "train": train,
        "evaluate": evaluate,
    }
    try:
        functions[task](orjson.loads(arguments))
    except MmkitError as error:
        console.say(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        missing = missing_module(error)
        if missing is None:
            raise
        console.say(str(missing))
        return missing.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
