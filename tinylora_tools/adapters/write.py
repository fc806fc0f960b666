"""A PEFT adapter as it is written again: its own tensors, P drawn or left out, and its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.lowrank import Array, training_dtype
from ..core.streams import projection
from ..errors import UnsupportedError
from ..formats.peft_adapter import WEIGHTS_NAMES, PeftAdapter, factor_key
from ..formats.peft_config import CONFIG_NAME
from ..formats.safetensors_file import write_file as write_safetensors
from ..formats.tensors import DTYPE_BITS, dtype_name, numpy_dtype
from ..output.companions import write_file
from .load import LoadedAdapter
from .provenance import KNOWN_STREAMS, projections, require_seed, seed_is_lost


def stored_tensors(adapter: PeftAdapter) -> dict[str, Array]:
    """Every tensor of the adapter's file; what PEFT 0.19 saved of other adapters is left out."""
    leaked = {key for modules in adapter.leaked.values() for keys in modules.values() for key in keys}
    return {name: adapter.file.read(name) for name in adapter.file.tensors if name not in leaked}


def drawn_projections(loaded: LoadedAdapter, stream: str) -> dict[str, Array]:
    """The P that the file lacks, by key, in the dtype that A has.

    Raises
    ------
    UndeterminedError
        Where a P can't be drawn: the order isn't known, or the seed is lost.
    """
    adapter, numbering = loaded.adapter, loaded.numbering
    if adapter.has_projections:
        return {}
    require_seed(adapter)
    if numbering.index is None:
        raise numbering.doubts[0]
    drawn = projections(adapter, numbering.index, stream=stream)
    return {
        factor_key(module, "P"): drawn[module].astype(numpy_dtype(parts.A.dtype))
        for module, parts in adapter.modules.items()
        if parts.P is None
    }


def require_drawable(loaded: LoadedAdapter) -> str:
    """The stream that draws every stored P again, bit for bit: only then may P be left out.

    Raises
    ------
    UnsupportedError
        If none does, naming a module whose P would be lost.
    UndeterminedError
        If the modules' places, which their seeds follow, aren't known.
    """
    adapter, numbering = loaded.adapter, loaded.numbering
    hint = "Keep P in the file."
    if adapter.config is None or seed_is_lost(adapter):
        raise UnsupportedError("the seed of P isn't known, so P can't be left out", where=adapter.file.path, hint=hint)
    if numbering.index is None:
        raise numbering.doubts[0]
    lost = ""
    for stream in KNOWN_STREAMS:
        lost = ""
        for module, parts in adapter.modules.items():
            if parts.P is None:
                continue
            P = adapter.file.read(parts.P.name).astype(np.float32)
            u, r, _ = P.shape
            drawn = projection.draw(adapter.config.projection_seed + numbering.index[module], u, r, stream=stream)
            if projection.round_to(drawn, training_dtype(P)).tobytes() != P.tobytes():
                lost = module
                break
        if not lost:
            return stream
    raise UnsupportedError(f"{lost}: its P isn't what its seed draws", where=adapter.file.path, hint=hint)


def write_adapter(
    directory: Path, tensors: Mapping[str, Array], config: Mapping[str, Any] | None, metadata: Mapping[str, str]
) -> int:
    """Write an adapter's two files, tensors in the order in which safetensors puts them; returns the weights' bytes."""
    ordered = dict(sorted(tensors.items(), key=lambda item: (-DTYPE_BITS[dtype_name(item[1].dtype)], item[0])))
    write_safetensors(directory / WEIGHTS_NAMES[0], ordered, {"format": "pt"} | dict(metadata))
    if config is not None:
        write_file(directory / CONFIG_NAME, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    return (directory / WEIGHTS_NAMES[0]).stat().st_size
