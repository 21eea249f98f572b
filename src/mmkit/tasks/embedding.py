"""Sentence embeddings, for what compares texts by meaning."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mmkit.errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Vectors: TypeAlias = "NDArray[np.float32]"

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def embed(texts: Sequence[str], model: Any = None) -> Vectors:
    """Unit vectors, shape (number of texts, width), by all-MiniLM-L6-v2, which reads 256 word pieces of a text, or by
    another SentenceTransformer.

    Tokenisers refuse lone surrogates: they become question marks. Raises UnavailableError where sentence-transformers
    or the model's files are not there.
    """
    readable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    chosen = encoder() if model is None else model
    vectors: Vectors = chosen.encode(readable, normalize_embeddings=True, show_progress_bar=False)
    return vectors


@functools.cache
def encoder() -> Any:
    """The model, loaded once. Raises as `embed` does."""
    return load_encoder()


def load_encoder() -> Any:
    """The model, anew: for who is going to change it. Raises as `embed` does."""
    from sentence_transformers import SentenceTransformer

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that asks for no terminal
            return SentenceTransformer(MODEL)
    except (OSError, RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"{MODEL} could not be loaded ({str(error).strip().splitlines()[0]}); "
            f"fetch it where there is a network: hf download {MODEL}"
        ) from error
