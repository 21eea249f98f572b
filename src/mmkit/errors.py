"""The error tree. Each error knows its exit code; `mmkit.cli.main` is the one place that turns one into the other.

Codes: 0 done, 1 a bug, 2 usage, 65 bad data, 66 missing input or image, 69 engine or extra unavailable,
75 stopped by a limit, 130 interrupted.
"""

from __future__ import annotations


class MmkitError(Exception):
    """Base of every error that mmkit raises on purpose; the message is for the user."""

    exit_code = 1


class UsageError(MmkitError):
    """The command line or the configuration asks for something impossible."""

    exit_code = 2


class DataError(MmkitError):
    """A row, a file or a model directory does not hold what it should."""

    exit_code = 65


class MissingInputError(MmkitError):
    """An input file or an image is not there."""

    exit_code = 66


class UnavailableError(MmkitError):
    """An engine, an endpoint or an optional package cannot be used; the message says how to get it."""

    exit_code = 69


class LimitError(MmkitError):
    """Work stopped at a limit (disk, memory, rejected rows); what was done is kept and can be resumed."""

    exit_code = 75


_EXTRA_OF_MODULE = {
    "torch": "train",
    "transformers": "train",
    "peft": "train",
    "datasets": "train",
    "httpx": "openai",
    "vllm": "vllm",
    "sklearn": "eval",
    "pycocoevalcap": "eval",
    "rouge_score": "eval",
    "sacrebleu": "eval",
    "rapidfuzz": "eval",
    "sentence_transformers": "embed",
    "tensorboard": "track",
    "wandb": "track",
}


def missing_module(error: ModuleNotFoundError) -> UnavailableError | None:
    """The error to show when an optional package could not be imported; None for a module that is none of them."""
    package = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF_MODULE.get(package)
    return None if extra is None else missing_extra(package, extra)


def missing_extra(package: str, extra: str) -> UnavailableError:
    """The error for an optional package that is not installed, with the command that adds it."""
    return UnavailableError(f"{package} is not installed; add it with: pip install 'mmkit[{extra}]'")
