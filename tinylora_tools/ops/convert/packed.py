"""An adapter in about a kilobyte, with the way back proven before a byte is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...adapters import soundness
from ...adapters.load import Adapter, ModuleOrder
from ...adapters.source import find_source
from ...adapters.unpack import rebuilt
from ...bases.base import Base, open_base
from ...bases.weights import torch_threads
from ...checks import dtype_named
from ...core.torch_arrays import check_device
from ...errors import UndeterminedError, UnsupportedError
from ...formats.packed import as_packed, check_content
from ...formats.peft.release import Seeding
from ...formats.safetensors_file import read_header
from ...formats.safetensors_writer import write_file
from ...inputs import watches_inputs
from ...output.staging import check_file, keep_apart, require_ending, staged_file
from ...progress import NoProgress, Progress
from ...sources.locate import expanded
from ...wording import argument, call
from ..opened import AdapterLike
from .packed_content import Packing, content_of
from .packed_proof import compare


@dataclass(frozen=True, slots=True)
class PackReport:
    """All that `tinylora convert packed` says; `error` is the largest relative error of a module's update, `identical`
    whether every tensor comes back bit for bit."""

    output: str
    to: str
    modules: int
    payload_bytes: int
    correction_bytes: int
    other_bytes: int
    bytes_written: int
    bytes_read: int
    error: float
    identical: bool
    corrections: int
    factor_entries: int
    seconds: float
    warnings: list[str]


@watches_inputs
def pack(
    adapter: AdapterLike,
    output: str | Path,
    *,
    base: str | Path | Base,
    exact: bool = False,
    v_dtype: str = "auto",
    stream: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    module_order: ModuleOrder = None,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> PackReport:
    """Pack an adapter: v, and what of the rest its base doesn't tell.

    Parameters
    ----------
    adapter : path, or open adapter
    output : path
        The .safetensors file to make.
    base : path
        With its weights: the way back is proven on them.
    exact : bool
        Correct every entry of A and B, so that what is restored is the very adapter.
    v_dtype : str
        "auto" (bfloat16 where nothing is lost, else as stored), or a dtype that v is rounded to.
    stream, module_order, first_adapter, seeding
        As `load_adapter`.
    device, threads
        Where factors are computed, and with how many of torch's threads.
    force : bool
        Replace an existing file.
    tell : callable
        Told beforehand what makes the file large.
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For an adapter that isn't sound, or whose factors aren't the base's.
    """
    started = time.perf_counter()
    v_dtype = dtype_named("v_dtype", v_dtype, "auto")
    output, progress = expanded(output), progress or NoProgress()
    check_file(output, force=force)
    require_ending(output)
    where, at, source = check_device(device), open_base(base), find_source(adapter)
    if output.exists():  # a new file may lie in an input's directory; what is replaced may not
        keep_apart(output, source.inputs(at))
    with torch_threads(threads):
        opened = source.open(
            at,
            module_order=module_order,
            first_adapter=first_adapter,
            seeding=seeding,
            stream=stream,
            device=device,
            in_memory=True,
            progress=progress,
        )
        _require_whole(opened)
        work = Packing.of(opened, at, v_dtype)
        large = _large(opened, work.dtypes) if exact else []
        for note in large:
            tell(note)
        canonical, moved = work.canonical(where, progress)
        factors = work.restored(canonical, exact=exact)
        tensors, metadata = content_of(work, factors)
    with staged_file(output, force=force) as partial:
        written = write_file(partial, tensors, metadata)
        packed = as_packed(read_header(partial))
        check_content(packed)
        back = rebuilt(packed, work.modules, canonical)
        identical = compare(opened.header, back, exact=exact, rounded=v_dtype != "auto")
    sizes = _sizes(tensors)
    return PackReport(
        output=str(output),
        to="packed",
        modules=len(work.modules),
        payload_bytes=sizes["v"],
        correction_bytes=sizes["corrections"],
        other_bytes=sizes["other"],
        bytes_written=written,
        bytes_read=opened.header.file.path.stat().st_size,
        error=max(one.error for one in factors),
        identical=identical,
        corrections=sum(len(one.places) for one in factors),
        factor_entries=sum(one.entries for one in factors),
        seconds=time.perf_counter() - started,
        warnings=[*opened.notes, *large, *moved],
    )


def _require_whole(adapter: Adapter) -> None:
    """Raise a TinyLoraError for an adapter that this form can't hold."""
    soundness.check(adapter)
    header = adapter.header
    if not header.has_config:
        what = "no adapter_config.json beside the adapter"
        raise UndeterminedError(what, where=adapter.path, hint="Put it beside the file.")
    if not header.has_projections and any(parts.P is not None for parts in adapter.modules.values()):
        what = "holds P of some modules only"
        raise UnsupportedError(what, where=adapter.path, hint="Save the adapter again with PEFT.")
    if not header.has_projections and adapter.places != {name: i for i, name in enumerate(adapter.order)}:
        what = "its P aren't stored, and have the seeds of another adapter's places"
        drawn = call("to_peft", adapter.path, "ANEW", first_adapter=..., save_projection=True)
        raise UnsupportedError(what, where=adapter.path, hint=f"Put P into the file first: {drawn}")


def _sizes(tensors: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Bytes of v, of corrections, and of other tensors."""
    found = dict.fromkeys(("v", "corrections", "other"), 0)
    for name, values in tensors.items():
        kind = name.partition(".")[0]
        found[kind if kind in found else "other"] += values.nbytes
    return found


def _large(adapter: Adapter, dtypes: Mapping[str, str]) -> list[str]:
    """How large an exact file of float32 factors gets."""
    wide = [parts for name, parts in adapter.modules.items() if dtypes[name] == "float32"]
    if not wide:
        return []
    entries = sum(parts.A.parameters + parts.B.parameters for parts in wide)
    return [
        f"{argument('exact')} stores nearly every entry of float32 factors, since no two libraries agree on them: "
        f"about {4 * entries:,} bytes"
    ]
