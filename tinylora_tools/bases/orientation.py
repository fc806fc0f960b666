"""Which way round a targeted weight is stored."""

from __future__ import annotations

import numpy as np

from ..core.base_check import OTHER_WEIGHT
from ..core.residual import Triplets, residual_of
from ..errors import MismatchError, UndeterminedError
from ..formats.checkpoint import Checkpoint
from ..formats.peft_adapter import PeftAdapter
from .tensor_names import BaseNames


def is_transposed(names: BaseNames, adapter: PeftAdapter, module: str, expected: tuple[int, int], key: str) -> bool:
    """Whether a weight is stored (in, out). The layer's type decides, or else the shape, or for a square weight the
    weight itself; never the flag in the adapter's configuration, which is what the last layer left there."""
    shape, kind = names.base.info(key).shape, names.kind(module)
    if kind is None and shape == expected == expected[::-1]:
        return _fits_transposed(names.base, adapter, module, key)
    transposed = kind == "Conv1D" if kind is not None else shape != expected
    if shape != (expected[::-1] if transposed else expected):
        wanted = expected[::-1] if kind == "Conv1D" else expected
        raise MismatchError(
            f"{module}: the adapter's factors are for a weight of shape {wanted}, {key} is {shape}",
            where=names.base.path,
            hint="Is this the base that the adapter was trained on?",
        )
    return transposed


def _fits_transposed(base: Checkpoint, adapter: PeftAdapter, module: str, key: str) -> bool:
    """Which way round a square weight has the adapter's singular vectors."""
    parts = adapter.modules[module]
    replaced = adapter.replaced.get(f"{module}.weight")
    W = adapter.file.read(replaced.tensor.name) if replaced else base.shards[base.shard_of[key]].read(key)
    triplets = Triplets.from_factors(
        adapter.file.read(parts.A.name), adapter.file.read(parts.B.name), np.dtype(np.float32)
    )
    straight, transposed = (residual_of(W, one) for one in (triplets, triplets.transposed()))
    if min(straight, transposed) > OTHER_WEIGHT or max(straight, transposed) < OTHER_WEIGHT:
        raise UndeterminedError(
            f"{module}: its weight is square, its layer's type isn't known, and the weight doesn't tell which way "
            f"round it is stored (residuals {straight:.2g} and {transposed:.2g})",
            where=base.path,
            hint="Is this the adapter's base? Then give it a config.json that names a known architecture.",
        )
    return transposed < straight
