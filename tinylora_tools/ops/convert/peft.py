"""A TinyLoRA adapter as PEFT's files again: clean of other adapters, with or without P, in another dtype."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...adapters.load import Adapter, ModuleOrder
from ...adapters.write import missing_projections, require_drawable, stored_tensors, write_adapter
from ...bases.base import Base
from ...checks import dtype_named
from ...errors import UnsupportedError
from ...formats.peft.keys import factor_key
from ...formats.peft.release import Seeding
from ...formats.tensors import float_dtype
from ...inputs import watches_inputs
from ...output.companions import copy_adapter_files
from ...output.staging import staged_directory
from ...progress import Progress
from ...sources.locate import expanded
from ..opened import AdapterLike, opened_for


@dataclass(frozen=True, slots=True)
class PeftReport:
    """All that `tinylora convert peft` says; `left_out` counts tensors of other adapters."""

    output: str
    to: str
    modules: int
    projection: bool
    left_out: int
    bytes_read: int
    bytes_written: int
    seconds: float
    warnings: list[str]


@watches_inputs
def to_peft(
    adapter: AdapterLike,
    output: str | Path,
    *,
    base: str | Path | Base | None = None,
    save_projection: bool | None = None,
    adapter_dtype: str | None = None,
    complete: bool = False,
    digests: bool = True,
    stream: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    module_order: ModuleOrder = None,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> PeftReport:
    """Write an adapter of any form in PEFT's files, anew.

    Parameters
    ----------
    adapter : path, or open adapter
    output : path
        The directory to make.
    base : path, optional
        What tells the order of modules; packed adapters, and some of other projects, need its weights.
    save_projection : bool, optional
        Put P into the file, or leave it out where its seed draws it again; None leaves it as it is.
    adapter_dtype : str, optional
        Of A, B and P; refused where it would round. None leaves it as it is.
    complete : bool
        Compute the modules that the file lacks, as PEFT does when it loads it: from the base's weights and the seed.
    digests : bool
        Record each tensor's sha256 in the file, some 130 bytes a tensor, so that a flipped bit is found.
    stream, module_order, first_adapter, seeding
        As `load_adapter`.
    device, threads
        Where factors are computed, if they have to be, and with how many of torch's threads.
    force : bool
        Replace an existing adapter.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For an adapter that isn't sound, a P that can't be drawn or would be lost, and a dtype that would round.
    """
    started = time.perf_counter()
    adapter_dtype = None if adapter_dtype is None else dtype_named("adapter_dtype", adapter_dtype)
    output = expanded(output)
    (opened,), inputs = opened_for(
        output,
        adapter,
        base,
        force=force,
        complete=complete,
        module_order=module_order,
        first_adapter=first_adapter,
        seeding=seeding,
        stream=stream,
        device=device,
        threads=threads,
        progress=progress,
    )
    header = opened.header
    tensors, notes = _tensors(opened, save_projection, adapter_dtype)
    stored = any(key.endswith(".tinylora_P") for key in tensors)
    with staged_directory(output, force=force, inputs=inputs) as directory:
        config = {**header.config.raw, "save_projection": stored} if header.has_config else None
        written = write_adapter(directory, tensors, config, header.file.metadata, digests=digests)
        if opened.companions is not None:
            copy_adapter_files(opened.companions, directory)
    return PeftReport(
        output=str(output),
        to="peft",
        modules=len(opened.modules),
        projection=stored,
        left_out=len(header.leaked_keys),
        bytes_read=header.file.path.stat().st_size,
        bytes_written=written,
        seconds=time.perf_counter() - started,
        warnings=[*opened.notes, *notes],
    )


def _tensors(
    adapter: Adapter, save_projection: bool | None, adapter_dtype: str | None
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """What the file gets, and what to know of it."""
    tensors, notes = stored_tensors(adapter.header), []
    if save_projection:
        tensors |= missing_projections(adapter)
    elif save_projection is False:
        stream = require_drawable(adapter)
        tensors = {key: values for key, values in tensors.items() if not key.endswith(".tinylora_P")}
        notes.append(
            f"P is left out: it comes back bit for bit where torch draws as {stream} does, and nearly so elsewhere"
        )
    if adapter_dtype is not None:
        for key in tensors.keys() & {factor_key(module, part) for module in adapter.modules for part in "ABP"}:
            tensors[key] = _narrowed(tensors[key], float_dtype(adapter_dtype), key, adapter.header.file.path)
    return tensors, notes


def _narrowed(values: NDArray[Any], dtype: np.dtype[Any], key: str, where: Path) -> NDArray[Any]:
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
