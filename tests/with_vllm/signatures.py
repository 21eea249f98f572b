"""What mmkit uses of vLLM, and whether a release of vLLM has it: by reading its source, without importing it.

Usage: signatures.py PLACE, where PLACE is a wheel or the folder that holds the folder `vllm`. Prints a line for each
thing that is not as mmkit uses it, and ends with exit code 1 where there is one.
"""

from __future__ import annotations

import ast
import functools
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

USED: Mapping[str, tuple[str, ...]] = {
    # module: a call as mmkit makes it, or a class (module: "") and the names that mmkit reads from it
    "vllm.engine.arg_utils": (
        "EngineArgs(*, model, dtype, seed, enforce_eager, max_model_len, max_num_seqs, block_size, limit_mm_per_prompt,"
        " gpu_memory_utilization, kv_cache_memory_bytes, tensor_parallel_size, enable_prefix_caching, enable_lora,"
        " max_lora_rank, max_loras, disable_log_stats)",
    ),
    "vllm.v1.engine.llm_engine": (
        "LLMEngine.from_engine_args(engine_args)",
        "LLMEngine.add_request(request_id, prompt, params, *, lora_request)",
        "LLMEngine.step()",
        "LLMEngine.add_lora(lora_request)",
        "LLMEngine.abort_request(request_ids)",
        "LLMEngine: model_config renderer engine_core",
    ),
    "vllm.v1.engine.core_client": (
        "InprocClient.shutdown()",
        "SyncMPClient.shutdown()",
        "SyncMPClient: outputs_queue",
    ),
    "vllm.v1.engine.exceptions": ("EngineDeadError()",),
    "vllm.config.model": ("ModelConfig: max_model_len",),
    "vllm.renderers.base": ("BaseRenderer.render_cmpl(prompts)", "BaseRenderer: mm_processor_cache"),
    "vllm.multimodal.cache": (": MultiModalCacheMissError",),
    "vllm.multimodal.cache.base": (
        "MultiModalCacheMissError: mm_hashes",
        "BaseMultiModalProcessorCache.invalidate(mm_hash)",
    ),
    "vllm.inputs.llm": ("TokensPrompt: prompt_token_ids multi_modal_data multi_modal_uuids",),
    "vllm.inputs.engine": ("MultiModalInput: prompt_token_ids", "TokensInput: prompt_token_ids"),
    "vllm.lora.request": ("LoRARequest(lora_name, lora_int_id, lora_path)",),
    "vllm.platforms": (": current_platform",),
    "vllm.platforms.interface": ("Platform.is_cpu()",),
    "vllm.sampling_params": (
        "SamplingParams(*, max_tokens, temperature, top_p, seed, stop_token_ids, ignore_eos, skip_special_tokens,"
        " detokenize, output_kind, logprob_token_ids, skip_clone)",
        "RequestOutputKind: FINAL_ONLY",
    ),
    "vllm.outputs": (
        "RequestOutput: request_id finished outputs prompt_token_ids",
        "CompletionOutput: token_ids logprobs finish_reason",
    ),
    "vllm.logprobs": ("Logprob: logprob",),
    "vllm.envs": (": VLLM_ENABLE_V1_MULTIPROCESSING VLLM_WORKER_MULTIPROC_METHOD VLLM_LOGGING_LEVEL",),
    # What goes to a server. vLLM ignores a field that it does not know.
    "vllm.entrypoints.openai.chat_completion.protocol": (
        "ChatCompletionRequest: messages model max_tokens temperature top_p seed stop logprobs top_logprobs ignore_eos"
        " skip_special_tokens add_generation_prompt continue_final_message prompt_logprobs structured_outputs",
    ),
    "vllm.entrypoints.openai.completion.protocol": (
        "CompletionRequest: prompt model max_tokens temperature top_p seed stop logprobs echo ignore_eos"
        " skip_special_tokens",
    ),
}

Definition = ast.ClassDef | ast.FunctionDef


class Source:
    """The modules of one release, parsed when they are asked for."""

    def __init__(self, place: Path) -> None:
        if place.is_dir():
            self._read: Callable[[str], str] = lambda name: (place / name).read_text()
            self._names = {path.relative_to(place).as_posix() for path in place.glob("vllm/**/*.py")}
        else:
            wheel = zipfile.ZipFile(place)
            self._read = lambda name: wheel.read(name).decode()
            self._names = set(wheel.namelist())
        self.module = functools.cache(self._module)

    def _module(self, dotted: str) -> ast.Module | None:
        path = dotted.replace(".", "/")
        for name in (f"{path}.py", f"{path}/__init__.py"):
            if name in self._names:
                return ast.parse(self._read(name))
        return None

    def definition(self, dotted: str, name: str) -> tuple[str, Definition] | None:
        """The module that defines a class or function, and its definition. Follows what is imported within vLLM."""
        tree = self.module(dotted)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, Definition) and node.name == name:
                return dotted, node
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.ImportFrom) and any((each.asname or each.name) == name for each in node.names):
                return self.definition(_absolute(dotted, node), name)
        return None

    def family(self, dotted: str, name: str) -> Iterator[ast.ClassDef]:
        """A class and those of vLLM that it inherits from, itself first."""
        found = self.definition(dotted, name)
        if found is not None and isinstance(found[1], ast.ClassDef):
            yield found[1]
            for base in found[1].bases:
                named = base.value if isinstance(base, ast.Subscript) else base
                if isinstance(named, ast.Name):
                    yield from self.family(found[0], named.id)


def differences(place: Path) -> list[str]:
    """What mmkit uses and this release has not, or has otherwise."""
    source = Source(place)
    return [
        f"{module}: {problem}"
        for module, uses in USED.items()
        for use in uses
        for problem in (_call(source, module, use) if "(" in use else _names(source, module, use))
    ]


def _names(source: Source, module: str, use: str) -> Iterator[str]:
    owner, _, names = use.partition(":")
    tree = source.module(module)
    holders: list[ast.AST] = list(source.family(module, owner)) if owner else [tree] if tree is not None else []
    there = {name for holder in holders for name in _defined_in(holder)}
    for name in names.split():
        if name not in there:
            yield f"{owner}.{name} is missing".lstrip(".")


def _call(source: Source, module: str, use: str) -> Iterator[str]:
    """Whether the arguments of the call find their parameters, and no other parameter must be given."""
    target, arguments = use.rstrip(")").split("(")
    made = ast.parse(f"def call({arguments}): pass").body[0]
    assert isinstance(made, ast.FunctionDef)
    by_place, by_name = [each.arg for each in made.args.args], [each.arg for each in made.args.kwonlyargs]
    owner, _, method = target.partition(".")
    family = list(source.family(module, owner))
    parameters = _parameters(family, method) if method else _fields(family)
    if parameters is None:
        yield f"{target} is missing"
        return
    names = list(parameters)
    if names[: len(by_place)] != by_place:
        yield f"{target} begins with {names[: len(by_place)]}, not {by_place}"
    yield from (f"{target} has no {name}" for name in by_name if name not in names)
    needed = [name for name, required in parameters.items() if required and name not in (*by_place, *by_name)]
    yield from (f"{target} must be given {name}" for name in needed)


def _parameters(family: list[ast.ClassDef], method: str) -> dict[str, bool] | None:
    """The parameters of a method behind self, and whether each must be given."""
    for owner in family:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and node.name == method:
                places, named = [*node.args.posonlyargs, *node.args.args], node.args
                required = len(places) - len(named.defaults)
                found = {each.arg: place < required for place, each in enumerate(places)}
                found |= {
                    each.arg: default is None for each, default in zip(named.kwonlyargs, named.kw_defaults, strict=True)
                }
                return {name: must for name, must in found.items() if name not in ("self", "cls")}
    return None


def _fields(family: list[ast.ClassDef]) -> dict[str, bool] | None:
    """The parameters of a class: of its __init__ if it has one, else its annotated fields (a dataclass or struct)."""
    if not family:
        return None
    found = _parameters(family, "__init__")
    if found is not None and not any(isinstance(node, ast.AnnAssign) for node in family[0].body):
        return found
    fields: dict[str, bool] = {}
    for owner in reversed(family):
        for node in owner.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                fields[node.target.id] = node.value is None
    return fields


def _defined_in(holder: ast.AST) -> Iterator[str]:
    """The names that a class or module defines, imports, or sets on self."""
    for node in ast.walk(holder):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (each.asname or each.name for each in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def _absolute(dotted: str, node: ast.ImportFrom) -> str:
    """The module that is imported from. vLLM's relative imports stand in packages' own files."""
    return f"{dotted}.{node.module}" if node.level else node.module or ""


if __name__ == "__main__":
    problems = differences(Path(sys.argv[1]))
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    sys.exit(1 if problems else 0)
