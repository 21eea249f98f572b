"""Whether a request fits into a model's context."""

from __future__ import annotations

from mmkit.errors import DataError


def require_fit(context: int | None, num_prompt: int, num_image: int, num_more: int) -> None:
    """Raise DataError where a prompt of `num_prompt` tokens and `num_more` new ones are more than `context`.

    `num_image` of the prompt's tokens stand for images. None is a model without a limit.
    """
    if context is not None and num_prompt + num_more > context:
        raise DataError(
            f"a prompt of {num_prompt:,} tokens ({num_image:,} of them images) and {num_more:,} more "
            f"exceed the model's context of {context:,}"
        )
