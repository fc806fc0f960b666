"""What a module's own forward does: nothing besides its kind's, a scale behind it, or something else."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

Scale = dict[str, Any]

#: Rows that are enough to see what a forward does.
_ROWS = 4


def forward_of(module: Any, kind: str, config: Any) -> tuple[bool, Scale | None]:
    """Whether a module does what its kind does and no more, and the number that it multiplies that by, if it does.

    Where a class has a forward of its own, a small copy with random weights is run beside the plain one: names tell
    nothing.

    Parameters
    ----------
    module : torch.nn.Module
        On the meta device.
    kind : str
        "L", "C" or "E".
    config : PretrainedConfig
        Where the number may come from.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    plain: Any = {"L": nn.Linear, "C": Conv1D, "E": nn.Embedding}[kind]
    if type(module).__name__ == "NonDynamicallyQuantizableLinear":
        return False, None  # nn.MultiheadAttention's: never called, its weight is taken from it
    if type(module).forward is plain.forward:
        return True, None
    factor = _factor(module)
    if not _is_plain(module, kind, factor):
        return False, None
    return (True, None) if factor == 1.0 else (False, _scale(module, factor, config))


def _factor(module: Any) -> float:
    """The number that an embedding says it multiplies by; 1 where it names none."""
    for name in ("scalar_embed_scale", "embed_scale"):
        value = getattr(module, name, None)
        value = getattr(value, "number", value)
        if isinstance(value, float | int):
            return float(value)
    return 1.0


def _is_plain(module: Any, kind: str, factor: float) -> bool:
    import torch
    from torch.nn import functional

    copied = copy.copy(module)
    generator = torch.Generator().manual_seed(0)
    rows, width = module.weight.shape
    weight = torch.randn(min(rows, _ROWS), width, generator=generator)
    bias = getattr(module, "bias", None)
    small = None if bias is None else torch.randn(len(weight), generator=generator)
    copied._parameters = {
        "weight": torch.nn.Parameter(weight),
        **({"bias": small} if "bias" in module._parameters else {}),
    }
    copied._buffers = {name: torch.tensor(factor) for name in module._buffers}
    try:
        with torch.no_grad(), torch.device("cpu"):
            if kind == "E":
                ids = torch.arange(len(weight))[None]
                got, wanted = copied(ids), functional.embedding(ids, weight) * factor
            elif kind == "L":
                x = torch.randn(2, 3, width, generator=generator)
                got, wanted = copied(x), functional.linear(x, weight, small) * factor
            else:
                return False
    except Exception:
        return False
    return (
        isinstance(got, torch.Tensor)
        and got.shape == wanted.shape
        and torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)
    )


def _scale(module: Any, factor: float, config: Any) -> Scale:
    """Where the number comes from: the square root of the embedding's width, or of an entry of the configuration, or
    that entry itself; else the number."""
    held = "buffer" if "embed_scale" in module._buffers else "number"
    if math.isclose(factor, math.sqrt(module.weight.shape[1])):
        return {"as": held, "root_of": "width"}
    for path, value in entries(config.to_dict()):
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 1:
            if math.isclose(value, factor):
                return {"as": held, "value_of": path}
            if math.isclose(math.sqrt(value), factor) and "hidden" in path:
                return {"as": held, "root_of": path}
    return {"as": held, "value": factor}


def entries(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every entry of a configuration, those of inner ones as `text_config.hidden_size`."""
    for name, value in settings.items():
        inner = f"{path}.{name}" if path else str(name)
        if isinstance(value, dict):
            yield from entries(value, inner)
        else:
            yield inner, value
