"""P from a seed into a file, and into an adapter that left it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .. import __version__
from ..adapters.load import ModuleOrder
from ..adapters.write import missing_projections, stored_tensors, write_adapter
from ..bases.base import Base
from ..checks import at_least, dtype_named
from ..core.compare import digest
from ..core.streams import projection
from ..formats.peft.keys import factor_key
from ..formats.peft.release import Seeding
from ..formats.safetensors_writer import write_file
from ..formats.tensors import float_dtype
from ..inputs import watches_inputs
from ..output.companions import copy_adapter_files
from ..output.staging import staged_directory, staged_file
from ..sources.locate import expanded
from .opened import AdapterLike, opened_for


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
    warnings: list[str]


def draw_projection(seed: int, u: int, r: int, n: int = 1, *, stream: str = projection.DEFAULT_STREAM) -> NDArray[Any]:
    """P of n modules, bit for bit as PyTorch draws it: that of the module at place i from seed + i.

    Parameters
    ----------
    seed : int
        projection_seed: from -2^63 to 2^64 - n.
    u, r : int
        Length of the trained vector, and rank of the factors.
    n : int
        How many modules.
    stream : str
        Whose arithmetic: "torch-cpu-avx2", "torch-cpu-scalar", or "torch", what is installed here.

    Returns
    -------
    (n, u, r, r) array of float32

    Raises
    ------
    UnsupportedError
        For arguments out of range.
    """
    at_least("n", n, 1)
    return projection.draw_many(range(seed, seed + n), u, r, stream=stream)


def project_seeds(
    seed: int,
    u: int,
    r: int,
    count: int = 1,
    *,
    stream: str = projection.DEFAULT_STREAM,
    dtype: str = "float32",
    output: str | Path | None = None,
    force: bool = False,
) -> ProjectReport:
    """Draw P for `count` modules, index i from seed + i; with `output`, into a safetensors file as `P.0`, `P.1`, ...

    Raises
    ------
    TinyLoraError
        For arguments out of range, and for an output that can't be written.
    """
    dtype = dtype_named("dtype", dtype)
    seeds = range(seed, seed + count)
    drawn = draw_projection(seed, u, r, count, stream=stream)
    narrow = float_dtype(dtype)
    tensors = {f"P.{i}": P.astype(narrow) for i, P in enumerate(drawn)}
    if output is not None:
        metadata = _provenance(stream, dtype) | {"seed": str(seed), "u": str(u), "r": str(r), "count": str(count)}
        with staged_file(expanded(output), force=force) as path:
            write_file(path, tensors, metadata)
    rows = [DrawnTensor(name, one, P.shape, digest(P)) for (name, P), one in zip(tensors.items(), seeds, strict=True)]
    return ProjectReport(stream, dtype, str(output) if output else None, rows, [])


@watches_inputs
def project(
    adapter: AdapterLike,
    output: str | Path,
    *,
    base: str | Path | Base | None = None,
    module_order: ModuleOrder = None,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
    stream: str | None = None,
    force: bool = False,
) -> ProjectReport:
    """Write the same adapter with its P in the file, so that PEFT loads the same P on every machine.

    P has the dtype that A has; everything else in the adapter's directory comes along. The report lists what was drawn.

    Parameters
    ----------
    adapter : path, or open adapter
    output : path
        The directory to make.
    base : path, optional
        What tells the order of modules; by default the base that the adapter names, if it is at hand.
    module_order, first_adapter, seeding, stream
        As `load_adapter`.
    force : bool
        Replace an existing adapter.

    Raises
    ------
    TinyLoraError
        Where a P can't be drawn (the order isn't known, the seed is lost), and for an output that can't be written.
    """
    output = expanded(output)
    (opened,), inputs = opened_for(
        output,
        adapter,
        base,
        force=force,
        module_order=module_order,
        first_adapter=first_adapter,
        seeding=seeding,
        stream=stream,
    )
    header = opened.header
    added = missing_projections(opened)
    config = {**opened.config.raw, "save_projection": True} if header.has_config else None
    with staged_directory(output, force=force, inputs=inputs) as directory:
        write_adapter(directory, stored_tensors(header) | added, config, header.file.metadata)
        if opened.companions is not None:
            copy_adapter_files(opened.companions, directory)
    seeds = {factor_key(m, "P"): opened.seed + i for m, i in opened.places.items()} if added else {}
    rows = [DrawnTensor(name, seeds[name], P.shape, digest(P)) for name, P in added.items()]
    return ProjectReport(opened.stream, "as stored", str(output), rows, list(opened.notes))


def _provenance(stream: str, dtype: str) -> dict[str, str]:
    return {"format": "pt", "stream": stream, "dtype": dtype, "made_by": f"tinylora-tools {__version__}"}
