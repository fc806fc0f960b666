"""What an adapter adds to each of its modules: R, from v and P, once the adapter is known to be sound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.lowrank import Array, projected
from ..core.streams import projection
from ..errors import MismatchError
from .load import LoadedAdapter, problems
from .provenance import projections, require_seed


def check_adapter(loaded: LoadedAdapter) -> None:
    """Raise MismatchError where an adapter contradicts itself or its vectors aren't finite."""
    adapter = loaded.adapter
    found = problems(adapter)
    if found:
        more = f" (and {len(found) - 1} more such)" if len(found) > 1 else ""
        raise MismatchError(
            found[0] + more,
            where=adapter.file.path,
            hint="Was the file or its adapter_config.json edited? Save the adapter again.",
        )
    for group, info in adapter.vectors.items():
        if not np.all(np.isfinite(adapter.file.read(info.name).astype(np.float64))):
            raise MismatchError(
                f"the trained vector of group {group} holds NaN or Inf",
                where=adapter.file.path,
                hint="The training diverged: use an earlier checkpoint of the adapter.",
            )


def projected_vectors(
    loaded: LoadedAdapter,
    scale: float = 1.0,
    *,
    stream: str = projection.DEFAULT_STREAM,
    vectors: Mapping[int, Array] | None = None,
) -> dict[str, Array]:
    """scale R of every module, (r, r) in float64; with `vectors`, by group, instead of the adapter's.

    Raises
    ------
    UndeterminedError
        If a P or a group can't be known.
    """
    adapter, numbering = loaded.adapter, loaded.numbering
    if not adapter.has_projections:
        require_seed(adapter)  # where the seed is lost, knowing the order wouldn't help
    if numbering.group is None or (numbering.index is None and not adapter.has_projections):
        raise numbering.doubts[0]
    drawn = projections(adapter, numbering.index, stream=stream)
    if vectors is None:
        vectors = {group: adapter.file.read(info.name) for group, info in adapter.vectors.items()}
    return {m: projected(vectors[numbering.group[m]], drawn[m]) * scale for m in adapter.modules}


def embedding_scale(
    loaded: LoadedAdapter, module: str, dtype: np.dtype[Any], release: str | None, *, as_buffer: bool = False
) -> float:
    """What an embedding of a weight in `dtype` multiplies what it looks up by; 1 for other modules.

    PEFT adds TinyLoRA's update behind that, so an update that goes in front of it has to be divided by it. A buffer is
    rounded to the weight's dtype, a Python number isn't, but (`as_buffer`) by PEFT's LoRA.

    Raises
    ------
    UndeterminedError
        If that depends on the release of transformers, or on a configuration, that isn't known.
    """
    scaling = loaded.architecture.scaling(module, release) if loaded.architecture else None
    if scaling is None:
        return 1.0
    root = math.sqrt(loaded.adapter.modules[module].in_features)
    return float(np.float32(root).astype(dtype)) if as_buffer or scaling == "buffer" else root
