"""Lets torchvision's build for CUDA, the only one that a package registry has, be imported beside a torch without it.

Its compiled half cannot be loaded there, and `import torchvision` then fails where it describes two operators of that
half. This declares them the moment before, with no implementation: calling one is still an error. The image transforms,
which are all that vLLM wants, need none of it. A .pth file imports this module whenever Python starts.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any

_declared: list[Any] = []  # a torch library forgets its operators when it is collected


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing itself; declares the operators when torchvision is first looked for."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()


def _declare_operators() -> None:
    import torch

    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)


sys.meta_path.insert(0, _BeforeTorchvision())
