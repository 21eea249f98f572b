"""One vLLM engine in this process, from its start to its end.

vLLM is entered one level below its `LLM` class: `LLM.generate` takes a finished list, and one prompt that is too long
ends the call for all of them.
"""

from __future__ import annotations

import gc
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmkit.engines.context import require_fit
from mmkit.engines.vllm import arguments, processes
from mmkit.engines.vllm.feed import EngineDied, Refused
from mmkit.errors import DataError, MmkitError, UnavailableError, missing_extra
from mmkit.models.adapters import SwitchedAdapters
from mmkit.models.loading import load_skeleton

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

VERSIONS = ("0.32", "0.33")
"""The releases whose interfaces were checked (tests/with_vllm/signatures.py)."""

_ENVIRONMENT = {
    # A fork would copy this process's threads' locks, and CUDA does not survive one.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # A pipe's stderr is for its summaries. Whoever wants to see vLLM at work sets these.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
}
_SHOWN_CHARACTERS = 500
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # which would make a reason another one in every run


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt for vLLM: token ids with one placeholder for each image (`num_placeholders` tokens in all), the
    images with the hashes that vLLM caches them by, how to decode, and with which adapter. `images` is asked when the
    job goes in, so that a picture is decoded then and not kept."""

    ids: list[int]
    num_placeholders: int
    images: Callable[[], list[Image]]
    image_hashes: Sequence[str]
    sampling: Any
    num_new: int
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """What vLLM wrote: the new tokens (`ids`), with the one that stopped it. `prompt_ids` is the prompt as the model
    read it, `num_image` of its tokens stand for images. `log_probs` are those of the first new token, by token id,
    where they were asked for."""

    failed: bool
    ids: list[int]
    prompt_ids: list[int]
    num_image: int
    log_probs: Mapping[int, float]


class VllmBackend:
    """vLLM's LLMEngine with its own processes, fed job by job. `adapter` is a LoRA directory for jobs that name none
    of `adapters`, further such directories."""

    def __init__(
        self,
        model: str,
        settings: Mapping[str, Any],
        extra: Sequence[str],
        adapter: str | None,
        adapters: Sequence[str] = (),
    ) -> None:
        self._model, self._settings, self._extra, self._named = model, settings, extra, adapters
        self._adapters = ({"": adapter} if adapter is not None else {}) | {name: name for name in adapters}
        self._engine: Any = None
        self._loras: dict[str, Any] = {}
        self._watch: processes.Watch | None = None
        self._context = 0
        self._num_image: dict[str, int] = {}  # of the jobs under way

    def start(self) -> None:
        """Load the model.

        Raises UnavailableError where vLLM is missing, of another version or cannot start, UsageError for an argument
        that it does not have, DataError for an adapter that is none.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with warnings.catch_warnings(action="ignore"):  # what vLLM makes of its own libraries is no user's affair
            self._start()

    def _start(self) -> None:
        try:
            import vllm
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise UnavailableError(f"vLLM cannot be imported: {error}") from error
            raise missing_extra("vllm", "vllm") from None
        require_version(vllm.__version__)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        arguments.require_whole(self._model)
        settings: dict[str, Any] = {"disable_log_stats": True, "enable_prefix_caching": True, "use_tqdm_on_load": False}
        settings |= arguments.FIXED
        settings |= {name: value for name, value in self._settings.items() if value is not None}
        if self._adapters:
            settings |= arguments.lora(*self._adapters.values())
        settings |= arguments.parse(self._extra, EngineArgs.__dataclass_fields__)
        if self._named:
            self._prepare_for_named(settings)
        try:
            self._engine, self._watch = processes.start(
                lambda: LLMEngine.from_engine_args(EngineArgs(model=self._model, **settings))
            )
        except (KeyboardInterrupt, MmkitError):
            raise
        except Exception as error:
            raise UnavailableError(f"vLLM cannot start {self._model}: {_words(error)}") from error
        self._context = self._engine.model_config.max_model_len
        self._load_adapters()

    def _prepare_for_named(self, settings: dict[str, Any]) -> None:
        """Raise DataError where an adapter does not fit the model: vLLM takes a narrower one, or one for other layers,
        and says nothing. On a CPU leave a place for adapters free: rows that name none get what is in the last one."""
        from vllm.platforms import current_platform

        SwitchedAdapters(load_skeleton(self._model), self._named)
        if current_platform.is_cpu():
            settings["max_loras"] = max(settings["max_loras"], len(self._adapters)) + 1

    def _load_adapters(self) -> None:
        """Load them all now: one that vLLM refuses would kill the engine with the first row that names it."""
        from vllm.lora.request import LoRARequest

        for number, (name, directory) in enumerate(self._adapters.items(), 1):
            # vLLM tells adapters, and what its prefix cache holds of them, apart by name and number.
            self._loras[name] = LoRARequest(directory, number, directory)
            try:
                self._engine.add_lora(self._loras[name])
            except Exception as error:
                self.close()
                raise DataError(f"vLLM does not take the adapter {directory}: {_words(error)}") from error

    def add(self, key: str, job: Job) -> None:
        """Prepare a job's images and hand it over. Raises Refused where vLLM will not take it."""
        try:
            self._add(key, job)
        except _missed() as missed:
            # vLLM's two image caches have drifted apart. It says which images to send again.
            self._forget(key, missed.mm_hashes)
            try:
                self._add(key, job)
            except _missed() as again:
                raise Refused(_words(again)) from again

    def _add(self, key: str, job: Job) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt: dict[str, Any] = {"prompt_token_ids": job.ids}
        if job.image_hashes:
            prompt["multi_modal_data"] = {"image": job.images()}
            prompt["multi_modal_uuids"] = {"image": list(job.image_hashes)}
        try:
            require_fit(self._context, len(job.ids), job.num_placeholders, job.num_new)  # before images are looked at
            (rendered,) = self._engine.renderer.render_cmpl([prompt])
            num_prompt = len(rendered["prompt_token_ids"])
            num_image = num_prompt - len(job.ids) + job.num_placeholders
            require_fit(self._context, num_prompt, num_image, job.num_new)
            lora = self._loras.get(job.adapter)
            self._engine.add_request(key, rendered, job.sampling, lora_request=lora)
            self._num_image[key] = num_image
        except EngineDeadError as error:
            raise EngineDied(_words(error)) from error
        except _missed():
            raise
        except Exception as error:
            # What vLLM raises here is of many kinds, down to failed assertions, and concerns this prompt alone. Its
            # image cache now believes that the engine has been sent these images.
            self._forget(key, job.image_hashes)
            raise Refused(str(error) if isinstance(error, DataError) else _words(error)) from error

    def step(self) -> list[tuple[str, Output]]:
        """Wait for the engine's next step; the jobs that it finished."""
        try:
            outputs = self._engine.step()
        except Exception as error:
            # A dead engine process, or, where the engine runs in this process, whatever killed it.
            raise EngineDied(_words(error)) from error
        return [(output.request_id, self._output(output)) for output in outputs if output.finished]

    def abort(self, keys: Sequence[str]) -> None:
        """Take jobs out of the engine."""
        for key in keys:
            self._num_image.pop(key, None)
        self._engine.abort_request(list(keys))

    def close(self) -> None:
        """End vLLM's processes and free its memory."""
        engine, self._engine = self._engine, None
        self._num_image.clear()
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        if engine is not None:
            engine.engine_core.shutdown()
            del engine
            gc.collect()

    def _output(self, output: Any) -> Output:
        (written,) = output.outputs
        first = written.logprobs[0] if written.logprobs else {}
        return Output(
            failed=written.finish_reason not in ("stop", "length"),
            ids=list(written.token_ids),
            prompt_ids=list(output.prompt_token_ids),
            num_image=self._num_image.pop(output.request_id, 0),
            log_probs={token: entry.logprob for token, entry in first.items()},
        )

    def _forget(self, key: str, image_hashes: Sequence[str]) -> None:
        """Undo what a job that did not make it has left behind in vLLM."""
        self._engine.abort_request([key])
        cache = self._engine.renderer.mm_processor_cache
        if cache is not None:
            for image_hash in image_hashes:
                cache.invalidate(image_hash)


def require_version(version: str) -> None:
    """Raise UnavailableError for a release of vLLM whose interfaces were not checked."""
    if not version.startswith(tuple(f"{known}." for known in VERSIONS)):
        known = " and ".join(VERSIONS)
        raise UnavailableError(f"vLLM {version} is installed; this mmkit knows {known}: pip install 'mmkit[vllm]'")


def _missed() -> Any:
    from vllm.multimodal.cache import MultiModalCacheMissError

    return MultiModalCacheMissError


def _words(error: BaseException) -> str:
    """One line of what went wrong: what vLLM said, or where it only says that something failed, the cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    text = _ADDRESS.sub("", text)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
