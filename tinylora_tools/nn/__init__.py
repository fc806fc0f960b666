"""TinyLoRA in live torch models: layers, and a model that reads and writes PEFT's files.

Names are imported when they are first used; torch comes with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..formats.peft.config import TinyLoraConfig
    from .model import TinyLoraModel
    from .peft_patch import fast_peft

#: Where each public name comes from.
_HOMES = {
    "TinyLoraConfig": "..formats.peft.config",
    "TinyLoraModel": ".model",
    "fast_peft": ".peft_patch",
}

__all__ = ["TinyLoraConfig", "TinyLoraModel", "fast_peft"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
