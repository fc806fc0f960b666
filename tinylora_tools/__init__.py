"""Make, inspect, merge and verify TinyLoRA adapters (arXiv:2602.04118), without loading the model.

>>> import tinylora_tools as tl
>>> adapter = tl.load_adapter("fixtures/peft021-13-numbers/adapter")
>>> len(adapter.modules), adapter.config.u
(84, 13)
>>> adapter.delta("model.layers.0.self_attn.q_proj").shape
(16, 16)

Names are imported when they are first used: this package alone costs neither NumPy nor torch. Paths may be strings, and
repositories on the Hub are named `hf://owner/name[@revision]`. Live torch modules are in `tl.nn`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .adapters.load import Adapter
    from .adapters.source import load_adapter
    from .bases.architectures.families import described_by
    from .core.svd.triplets import top_triplets
    from .errors import FormatError, MismatchError, OutputError, TinyLoraError, UndeterminedError, UnsupportedError
    from .formats.peft.config import TinyLoraConfig
    from .ops.architecture.run import architecture
    from .ops.convert.gguf import to_gguf
    from .ops.convert.lora import to_lora
    from .ops.convert.packed import pack
    from .ops.convert.peft import to_peft
    from .ops.create.count import count
    from .ops.create.init import init
    from .ops.diff import diff
    from .ops.factor import factor
    from .ops.inspect.files import check_files
    from .ops.inspect.run import inspect
    from .ops.merge.expected import merged
    from .ops.merge.run import merge
    from .ops.merge.verify_output import verify_output
    from .ops.project import draw_projection, project
    from .ops.push.run import push
    from .ops.verify.base import verify_base
    from .ops.verify.seed import verify_seed

#: Where each public name comes from.
_HOMES = {
    "Adapter": "adapters.load",
    "FormatError": "errors",
    "MismatchError": "errors",
    "OutputError": "errors",
    "TinyLoraConfig": "formats.peft.config",
    "TinyLoraError": "errors",
    "UndeterminedError": "errors",
    "UnsupportedError": "errors",
    "architecture": "ops.architecture.run",
    "check_files": "ops.inspect.files",
    "count": "ops.create.count",
    "described_by": "bases.architectures.families",
    "diff": "ops.diff",
    "draw_projection": "ops.project",
    "factor": "ops.factor",
    "init": "ops.create.init",
    "inspect": "ops.inspect.run",
    "load_adapter": "adapters.source",
    "merge": "ops.merge.run",
    "merged": "ops.merge.expected",
    "pack": "ops.convert.packed",
    "project": "ops.project",
    "push": "ops.push.run",
    "to_gguf": "ops.convert.gguf",
    "to_lora": "ops.convert.lora",
    "to_peft": "ops.convert.peft",
    "top_triplets": "core.svd.triplets",
    "verify_base": "ops.verify.base",
    "verify_output": "ops.merge.verify_output",
    "verify_seed": "ops.verify.seed",
}

__all__ = [
    "Adapter",
    "FormatError",
    "MismatchError",
    "OutputError",
    "TinyLoraConfig",
    "TinyLoraError",
    "UndeterminedError",
    "UnsupportedError",
    "architecture",
    "check_files",
    "count",
    "described_by",
    "diff",
    "draw_projection",
    "factor",
    "init",
    "inspect",
    "load_adapter",
    "merge",
    "merged",
    "pack",
    "project",
    "push",
    "to_gguf",
    "to_lora",
    "to_peft",
    "top_triplets",
    "verify_base",
    "verify_output",
    "verify_seed",
]


def __getattr__(name: str) -> Any:
    if name == "nn":
        return importlib.import_module(".nn", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
