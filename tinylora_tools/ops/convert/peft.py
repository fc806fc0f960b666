"""A TinyLoRA adapter as PEFT's files again: clean of other adapters, with or without P, in another dtype."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...adapters.load import load_adapter, unsaved_bias
from ...adapters.updates import check_adapter
from ...adapters.write import drawn_projections, require_drawable, stored_tensors, write_adapter
from ...core.lowrank import Array
from ...core.streams import projection
from ...errors import UnsupportedError
from ...formats.peft_adapter import factor_key
from ...formats.tensors import float_dtype
from ...output.companions import copy_adapter_files
from ...output.staging import staged_directory


@dataclass(frozen=True, slots=True)
class PeftOptions:
    """How the adapter is written; None leaves a thing as it is."""

    save_projection: bool | None = None
    adapter_dtype: str | None = None
    stream: str = projection.DEFAULT_STREAM
    module_order: tuple[str, ...] | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class PeftReport:
    """All that `tinylora convert --to peft` says; `left_out` counts tensors of other adapters."""

    output: str
    to: str
    modules: int
    projection: bool
    left_out: int
    bytes_read: int
    bytes_written: int
    seconds: float
    warnings: list[str]


def convert_to_peft(
    path: Path, output: Path, *, base_config: Mapping[str, Any] | None = None, options: PeftOptions | None = None
) -> PeftReport:
    """Write an adapter again.

    Raises
    ------
    TinyLoraError
        For an adapter that isn't sound, a P that can't be drawn or would be lost, and a dtype that would round.
    """
    started = time.perf_counter()
    options = options or PeftOptions()
    loaded = load_adapter(path, base_config=base_config, module_order=options.module_order)
    adapter = loaded.adapter
    check_adapter(loaded)
    warnings = unsaved_bias(adapter)
    tensors = stored_tensors(adapter)
    left_out = len(adapter.file.tensors) - len(tensors)
    if options.save_projection:
        tensors |= drawn_projections(loaded, options.stream)
    elif options.save_projection is False:
        stream = require_drawable(loaded)
        tensors = {key: values for key, values in tensors.items() if not key.endswith(".tinylora_P")}
        warnings.append(
            f"P is left out: it comes back bit for bit where torch draws as {stream} does, and nearly so elsewhere"
        )
    if options.adapter_dtype is not None:
        keys = {factor_key(module, part): module for module in adapter.modules for part in "ABP"}
        for key in tensors.keys() & keys.keys():
            tensors[key] = _narrowed(tensors[key], float_dtype(options.adapter_dtype), key, adapter.file.path)
    stored = any(key.endswith(".tinylora_P") for key in tensors)
    config = {**adapter.config.raw, "save_projection": stored} if adapter.config else None
    with staged_directory(output, force=options.force, inputs=[path]) as directory:
        written = write_adapter(directory, tensors, config, adapter.file.metadata)
        if path.is_dir():
            copy_adapter_files(adapter.directory, directory)
    return PeftReport(
        output=str(output),
        to="peft",
        modules=len(adapter.modules),
        projection=stored,
        left_out=left_out,
        bytes_read=adapter.file.path.stat().st_size,
        bytes_written=written,
        seconds=time.perf_counter() - started,
        warnings=warnings,
    )


def _narrowed(values: Array, dtype: np.dtype[Any], key: str, where: Path) -> Array:
    """The same values in another dtype; PEFT widens them as it loads them, so nothing may be lost."""
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    if not np.array_equal(narrow.astype(np.float64), values.astype(np.float64)):
        raise UnsupportedError(
            f"{key} holds values that {dtype.name} would round",
            where=where,
            hint="Keep the dtype. Only factors of a 16-bit base fit into its dtype.",
        )
    return narrow
