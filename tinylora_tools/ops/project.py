"""P from a seed into a file, and into an adapter that left it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..adapters.load import load_adapter
from ..adapters.write import drawn_projections, stored_tensors, write_adapter
from ..core.compare import digest
from ..core.streams import projection
from ..formats.peft_adapter import factor_key
from ..formats.safetensors_file import write_file as write_safetensors
from ..formats.tensors import float_dtype
from ..output.companions import copy_adapter_files
from ..output.staging import staged_directory, staged_file


@dataclass(frozen=True, slots=True)
class DrawnTensor:
    """One drawn P: its name, its seed, and the sha256 of its little-endian bytes."""

    name: str
    seed: int
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class ProjectReport:
    """What was drawn. `output` is None where nothing was written."""

    stream: str
    dtype: str
    output: str | None
    tensors: list[DrawnTensor]


def project_seeds(
    seed: int,
    u: int,
    r: int,
    count: int = 1,
    *,
    stream: str = projection.DEFAULT_STREAM,
    dtype: str = "float32",
    output: Path | None = None,
    force: bool = False,
) -> ProjectReport:
    """Draw P for `count` modules, index i from seed + i; with `output`, into a safetensors file as `P.0`, `P.1`, ...

    Raises
    ------
    TinyLoraError
        For arguments out of range, and for an output that can't be written.
    """
    seeds = range(seed, seed + count)
    drawn = projection.draw_many(seeds, u, r, stream=stream)
    narrow = float_dtype(dtype)
    tensors = {f"P.{i}": P.astype(narrow) for i, P in enumerate(drawn)}
    if output is not None:
        metadata = _provenance(stream, dtype) | {"seed": str(seed), "u": str(u), "r": str(r), "count": str(count)}
        with staged_file(output, force=force) as path:
            write_safetensors(path, tensors, metadata)
    rows = [DrawnTensor(name, one, P.shape, digest(P)) for (name, P), one in zip(tensors.items(), seeds, strict=True)]
    return ProjectReport(stream, dtype, str(output) if output else None, rows)


def project_adapter(
    path: Path,
    output: Path,
    *,
    base_config: Mapping[str, Any] | None = None,
    module_order: Sequence[str] | None = None,
    stream: str = projection.DEFAULT_STREAM,
    force: bool = False,
) -> ProjectReport:
    """Write the same adapter with its P in the file, so that PEFT loads the same P on every machine.

    P has the dtype that A has; everything else in the adapter's directory comes along. The report lists what was drawn.

    Raises
    ------
    TinyLoraError
        Where a P can't be drawn (the order isn't known, the seed is lost), and for an output that can't be written.
    """
    loaded = load_adapter(path, base_config=base_config, module_order=module_order)
    adapter, numbering = loaded.adapter, loaded.numbering
    added = drawn_projections(loaded, stream)
    config = {**adapter.config.raw, "save_projection": True} if adapter.config else None
    with staged_directory(output, force=force, inputs=[path]) as directory:
        write_adapter(directory, stored_tensors(adapter) | added, config, adapter.file.metadata)
        if path.is_dir():
            copy_adapter_files(adapter.directory, directory)
    index, seed = numbering.index or {}, adapter.config.projection_seed if adapter.config else 0
    seeds = {factor_key(module, "P"): seed + index.get(module, 0) for module in adapter.modules}
    rows = [DrawnTensor(name, seeds[name], P.shape, digest(P)) for name, P in added.items()]
    return ProjectReport(stream, "as stored", str(output), rows)


def _provenance(stream: str, dtype: str) -> dict[str, str]:
    return {"format": "pt", "stream": stream, "dtype": dtype, "made_by": f"tinylora-tools {__version__}"}
