"""What a merge in bfloat16 would lose of an adapter's update, from a few of its modules."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ...adapters.load import Adapter
from ...adapters.soundness import problems
from ...bases.base import Base
from ...bases.quantization import plain_group
from ...bases.tensor_names import BaseNames
from ...errors import TinyLoraError
from ...formats.tensors import float_dtype

#: How many modules are looked at, and elements of the largest of them.
_MOST, _LARGEST = 8, 1 << 26


@dataclass(frozen=True, slots=True)
class RoundingLoss:
    """What a merge in `dtype` changes of the update, as a share of its norm: a merge's `delta_error`, from so many
    modules that were looked at."""

    dtype: str
    share: float
    modules: int


def rounding_in(adapter: Adapter, base: Base) -> RoundingLoss | None:
    """Form the sums of a few modules, evenly over the model, and round them as a merge does; None where none can be
    formed: the update is zero, the weights are quantized, the adapter contradicts itself, or something isn't known."""
    if problems(adapter):
        return None
    names, rounded = BaseNames(base.checkpoint, adapter.architecture), float_dtype("bfloat16")
    able = [
        name
        for name, parts in adapter.modules.items()
        if prod((parts.out_features, parts.in_features)) <= _LARGEST and names.kind(name) != "Embedding"
    ]
    lost = whole = 0.0
    looked = 0
    for name in able[:: max(1, len(able) // _MOST)][:_MOST]:
        try:
            delta = adapter.delta(name).astype(np.float32)  # (out, in)
            W = names.base.read(plain_group(names, f"{name}.weight").stored)
        except TinyLoraError:
            continue
        W = W.T if names.kind(name) == "Conv1D" or W.shape != delta.shape else W
        if W.shape != delta.shape:
            continue
        weight = W.astype(rounded).astype(np.float32)
        term = (weight + delta).astype(rounded).astype(np.float32) - weight - delta
        lost += float(np.vdot(term, term))
        whole += float(np.vdot(delta, delta))
        looked += 1
    return RoundingLoss("bfloat16", (lost / whole) ** 0.5, looked) if whole > 0 else None
