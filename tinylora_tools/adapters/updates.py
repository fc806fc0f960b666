"""What an adapter adds to each of its modules: R, from v and P."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bases.tensor_names import BaseNames
from ..core.lowrank import projected
from ..errors import TinyLoraError
from .load import Adapter


def projected_vectors(
    adapter: Adapter, scale: float = 1.0, *, vectors: Mapping[int, NDArray[Any]] | None = None
) -> dict[str, NDArray[Any]]:
    """scale R of every module, (r, r) in float64; with `vectors`, by group, instead of the adapter's.

    Raises
    ------
    UndeterminedError
        If a P or a group can't be known.
    """
    drawn = adapter.projections()
    groups = adapter.groups
    if vectors is None:
        vectors = {group: adapter.vector(group) for group in adapter.header.vectors}
    return {module: projected(vectors[groups[module]], drawn[module]) * scale for module in adapter.modules}


def embedding_scale(
    adapter: Adapter, module: str, dtype: np.dtype[Any], release: str | None, *, as_buffer: bool = False
) -> float:
    """What an embedding of a weight in `dtype` multiplies what it looks up by; 1 for other modules.

    PEFT adds TinyLoRA's update behind that, so an update that goes in front of it has to be divided by it. A buffer is
    rounded to the weight's dtype, a Python number isn't, but (`as_buffer`) by PEFT's LoRA.

    Raises
    ------
    UndeterminedError
        If that depends on the release of transformers, or on a configuration, that isn't known.
    """
    width = adapter.modules[module].in_features
    scaling = adapter.architecture.scaling(module, width, release) if adapter.architecture else None
    if scaling is None:
        return 1.0
    rounded = as_buffer or scaling.held == "buffer"
    return float(np.float32(scaling.factor).astype(dtype)) if rounded else scaling.factor


def vocabularies(adapter: Adapter) -> list[tuple[str, int, int]]:
    """Weights that the adapter changes and that have another number of rows in its base, where that is at hand:
    parameter, the adapter's rows, the base's. Embeddings and heads are resized for training so."""
    base = adapter.base
    if base is None or not base.has_weights:
        return []
    names = BaseNames(base.checkpoint, adapter.architecture)
    shapes = {f"{name}.weight": (parts.out_features, parts.in_features) for name, parts in adapter.modules.items()}
    shapes |= {name: one.tensor.shape for name, one in adapter.header.replaced.items() if len(one.tensor.shape) == 2}
    found = []
    for parameter, (rows, columns) in shapes.items():
        try:
            of_base = base.checkpoint.info(names.group(parameter).stored).shape
        except TinyLoraError:
            continue
        if len(of_base) == 2 and of_base[1] == columns and of_base[0] != rows:
            found.append((parameter, rows, of_base[0]))
    return found
