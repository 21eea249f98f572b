"""The engines by name. Naming one imports nothing; opening one imports its module, and its model comes later still."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from mmkit.engines import Engine

ENGINES = {
    "transformers": "mmkit.engines.transformers:TransformersEngine",
    "vllm": "mmkit.engines.vllm:VllmEngine",
    "openai": "mmkit.engines.openai:OpenAiEngine",
    "replay": "mmkit.engines.replay:ReplayEngine",
}


def open_engine(name: str, options: Mapping[str, Any]) -> Engine:
    """The engine called `name`, made with `options`. Raises KeyError for an unknown name."""
    module, _, attribute = ENGINES[name].partition(":")
    return cast(Engine, getattr(importlib.import_module(module), attribute)(**options))
