"""An adapter in PEFT's files: its own tensors, P drawn or left out, and its configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.lowrank import training_dtype
from ..core.streams import projection
from ..errors import UnsupportedError
from ..formats.digests import renewed, without_digests
from ..formats.peft.adapter import WEIGHTS_NAMES, PeftAdapter
from ..formats.peft.config import CONFIG_NAME
from ..formats.peft.keys import factor_key
from ..formats.safetensors_writer import Entry, write_tensors
from ..formats.tensors import DTYPE_BITS, dtype_name, numpy_dtype
from .load import Adapter
from .provenance import KNOWN_STREAMS


def stored_tensors(adapter: PeftAdapter) -> dict[str, NDArray[Any]]:
    """Every tensor of the adapter's file; what PEFT 0.19 saved of other adapters is left out."""
    leaked = adapter.leaked_keys
    return {name: adapter.file.read(name) for name in adapter.file.tensors if name not in leaked}


def missing_projections(adapter: Adapter) -> dict[str, NDArray[Any]]:
    """The P that the file lacks, by key, in the dtype that A has.

    Raises
    ------
    UndeterminedError
        Where a P can't be drawn: the order isn't known, or the seed is lost.
    """
    if adapter.header.has_projections:
        return {}
    drawn = adapter.projections()
    return {
        factor_key(module, "P"): drawn[module].astype(numpy_dtype(parts.A.dtype))
        for module, parts in adapter.modules.items()
        if parts.P is None
    }


def require_drawable(adapter: Adapter) -> str:
    """The stream that draws every stored P again, bit for bit: only then may P be left out.

    Raises
    ------
    UnsupportedError
        If none does, naming a module whose P would be lost.
    UndeterminedError
        If the modules' places, which their seeds follow, aren't known.
    """
    header = adapter.header
    hint = "Keep P in the file."
    if not header.has_config or header.seeding == "salted":
        raise UnsupportedError("the seed of P isn't known, so P can't be left out", where=header.file.path, hint=hint)
    lost, places = "", {name: i for i, name in enumerate(adapter.order)}  # those that PEFT's load gives
    held = {name: P.astype(np.float32) for name in adapter.modules if (P := header.stored_projection(name)) is not None}
    for stream in KNOWN_STREAMS:
        seeds = [adapter.seed + places[module] for module in held]
        ranks, dtypes = [P.shape[1] for P in held.values()], [training_dtype(P) for P in held.values()]
        drawn = projection.draw_rounded(seeds, adapter.config.u, ranks, dtypes, stream=stream)
        lost = next((name for name, P in zip(held, drawn, strict=True) if P.tobytes() != held[name].tobytes()), "")
        if not lost:
            return stream
    raise UnsupportedError(f"{lost}: its P isn't what its seed draws", where=header.file.path, hint=hint)


def write_adapter(
    directory: Path,
    tensors: Mapping[str, NDArray[Any]],
    config: Mapping[str, Any] | None,
    metadata: Mapping[str, str],
    *,
    digests: bool = True,
) -> int:
    """Write an adapter's two files, the weights' with the digest of each tensor, unless they are to be left out;
    returns the weights' bytes."""
    entries = [(name, dtype_name(array.dtype), array.shape) for name, array in tensors.items()]
    metadata = renewed(metadata, tensors) if digests else without_digests(metadata)
    return stream_adapter(directory, entries, tensors.items(), config, metadata)


def stream_adapter(
    directory: Path,
    entries: Iterable[Entry],
    values: Iterable[tuple[str, NDArray[Any]]],
    config: Mapping[str, Any] | None,
    metadata: Mapping[str, str],
) -> int:
    """As `write_adapter`, from values that come one by one, in any order; digests are what `metadata` holds."""
    ordered = sorted(entries, key=lambda entry: (-DTYPE_BITS[entry[1]], entry[0]))  # as safetensors itself orders them
    written = write_tensors(directory / WEIGHTS_NAMES[0], ordered, values, {"format": "pt"} | dict(metadata))
    if config is not None:
        (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    return written
