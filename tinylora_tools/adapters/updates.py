"""What an adapter adds to each of its modules: R, from v and P."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.lowrank import projected
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
