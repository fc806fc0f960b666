"""An adapter in about a kilobyte, with the way back proven before a byte is written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from ...adapters.load import LoadedAdapter, load_adapter
from ...adapters.provenance import KNOWN_STREAMS, projections
from ...adapters.unpack import check_content, rebuilt
from ...adapters.updates import check_adapter, projected_vectors
from ...bases.canonical import canonical_of, content_mark, digest_of, drawn_projection, modules_of, short, weights_mark
from ...bases.modules import Module
from ...core.lowrank import training_dtype
from ...core.streams.projection import DEFAULT_STREAM
from ...core.torch_arrays import check_device
from ...core.tying import group_of
from ...errors import MismatchError, UndeterminedError, UnsupportedError
from ...formats.checkpoint import Checkpoint, read_checkpoint
from ...formats.packed import CONTENT, FORMAT, VERSION, Array, as_packed, lean_config
from ...formats.peft_adapter import PeftAdapter
from ...formats.safetensors_file import read_header, write_file
from ...formats.tensors import FLOAT_NAMES, float_dtype
from ...output.staging import check_file, require_ending, staged_file
from ...progress import NoProgress, Progress
from .packed_factors import RestoredFactors, corrections_of, off_base, restore_module
from .packed_proof import compare


@dataclass(frozen=True, slots=True)
class PackReport:
    """All that `tinylora convert --to packed` says; `error` is the largest relative error of a module's update,
    `identical` whether every tensor comes back bit for bit."""

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


def pack(
    path: Path,
    base: Path,
    output: Path,
    *,
    exact: bool = False,
    v_dtype: str = "auto",
    device: str = "cpu",
    module_order: Sequence[str] | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> PackReport:
    """Pack an adapter.

    Parameters
    ----------
    path, base, output : Path
    exact : bool
        Correct every entry of A and B, so that what is restored is the very adapter.
    v_dtype : str
        "auto" (bfloat16 where nothing is lost, else as stored), or a dtype that v is rounded to.
    device : str
    module_order : sequence of str, optional
        As `load_adapter`.
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
    check_file(output, force=force)
    require_ending(output)
    where = check_device(device, "Leave --device out to compute on the CPU.")
    checkpoint = read_checkpoint(base)
    loaded = load_adapter(path, base_config=checkpoint.config, module_order=module_order)
    check_adapter(loaded)
    adapter, numbering = loaded.adapter, loaded.numbering
    if adapter.config is None:
        raise UndeterminedError("no adapter_config.json beside the adapter", where=path, hint="Put it beside the file.")
    if not adapter.has_projections and any(parts.P is not None for parts in adapter.modules.values()):
        raise UnsupportedError("holds P of some modules only", where=path, hint="Save the adapter again with PEFT.")
    if numbering.index is None or numbering.group is None:
        raise numbering.doubts[0]
    stored_v = {group: _vector(adapter.file.read(info.name), v_dtype, path) for group, info in adapter.vectors.items()}
    R, stored_r = projected_vectors(loaded), projected_vectors(loaded, vectors=stored_v)
    names = sorted(adapter.modules, key=numbering.index.__getitem__)
    modules, told = _modules(checkpoint, adapter, names)
    dtypes = {m.name: _training_dtype(adapter, m.name) for m in modules}
    if exact:
        _tell_size(adapter, dtypes, tell)
    moved: set[str] = set()

    def check(module: Module, stored: Array) -> None:
        if off_base(checkpoint, adapter, module, stored, dtypes[module.name]):
            moved.add(module.name)

    rank = adapter.config.rank
    canonical = canonical_of(checkpoint, modules, rank, dtypes, where, progress or NoProgress(), check)
    factors = RestoredFactors()
    for module in modules:
        both = R[module.name], stored_r[module.name]
        restore_module(adapter, module, canonical[module.name], both, factors, exact=exact)
    drawn, own, metadata = _projections(loaded, names, dtypes)
    metadata |= {
        "format": FORMAT,
        "version": VERSION,
        "config": lean_config(adapter.config.raw),
        "weights": weights_mark(checkpoint, modules),
        "signs": short(np.packbits(np.array(factors.flipped, dtype=bool)).tobytes()),
        "A": digest_of(factors.A[name] for name in names),
        "B": digest_of(factors.B[name] for name in names),
        "P": digest_of(drawn[name] for name in names),
        "dtypes": _said_once([dtypes[name] for name in names]),
        "error": f"{factors.error:.1e}",
    }
    if adapter.has_projections != adapter.config.save_projection:
        metadata["holds_P"] = json.dumps(adapter.has_projections)
    if not told:
        metadata["modules"] = json.dumps(names, separators=(",", ":"))
    stored = _said_once([FLOAT_NAMES[adapter.modules[name].A.dtype] for name in names])
    v_stored = FLOAT_NAMES[next(iter(adapter.vectors.values())).dtype]
    metadata |= {key: name for key, name in (("stored", stored), ("v", v_stored)) if name != "float32"}
    groups = [numbering.group[name] for name in names]
    if groups != [group_of(i, len(names), adapter.config.weight_tying) for i in range(len(names))]:
        metadata["groups"] = json.dumps(groups, separators=(",", ":"))
    vectors = {f"v.{group}": v for group, v in stored_v.items()}
    corrections = corrections_of(factors, dtypes.values())
    whole = [replacement.tensor.name for replacement in adapter.replaced.values()]
    others = {name: adapter.file.read(name) for name in (*whole, *adapter.copies)}
    tensors = {**vectors, **corrections, **{f"P.{names.index(n)}": P for n, P in own.items()}, **others}
    metadata[CONTENT] = content_mark(metadata, tensors, tensors.__getitem__)
    with staged_file(output, force=force) as partial:
        write_file(partial, tensors, metadata)
        packed = as_packed(read_header(partial))
        check_content(packed)
        back = rebuilt(packed, modules, canonical)
        identical = compare(adapter, back, exact=exact, rounded=v_dtype != "auto")
        written = partial.stat().st_size
    count = sum(len(part) for part in factors.index)
    return PackReport(
        output=str(output),
        to="packed",
        modules=len(names),
        payload_bytes=sum(v.nbytes for v in vectors.values()),
        correction_bytes=sum(c.nbytes for c in corrections.values()),
        other_bytes=sum(o.nbytes for o in others.values()) + sum(P.nbytes for P in own.values()),
        bytes_written=written,
        bytes_read=adapter.file.path.stat().st_size,
        error=factors.error,
        identical=identical,
        corrections=count,
        factor_entries=factors.entries,
        seconds=time.perf_counter() - started,
        warnings=_moved([name for name in names if name in moved]),
    )


def _moved(modules: Sequence[str]) -> list[str]:
    if not modules:
        return []
    more = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
    return [
        f"the factors of {modules[0]}{more} are a little off the base's weights: is it the very base? The file restores"
        " them all the same, by corrections"
    ]


def _modules(base: Checkpoint, adapter: PeftAdapter, names: list[str]) -> tuple[list[Module], bool]:
    """The adapter's modules in order, and whether its configuration tells just these."""
    config = adapter.config.raw if adapter.config else {}
    try:
        modules = modules_of(base, config, None, adapter.path)
        if [m.name for m in modules] == names:
            return modules, True
    except (MismatchError, UndeterminedError, UnsupportedError):
        pass
    return modules_of(base, config, names, adapter.path), False


def _training_dtype(adapter: PeftAdapter, name: str) -> str:
    parts = adapter.modules[name]
    return training_dtype(adapter.file.read(parts.A.name), adapter.file.read(parts.B.name))


def _projections(
    loaded: LoadedAdapter, names: list[str], dtypes: Mapping[str, str]
) -> tuple[dict[str, Array], dict[str, Array], dict[str, str]]:
    """P of each module; those that the file has to hold; and what the metadata say of the rest."""
    adapter, index = loaded.adapter, loaded.numbering.index or {}
    stored = projections(adapter, index)
    first = adapter.config.projection_seed if adapter.config else 0
    for stream in KNOWN_STREAMS:
        drawn = (
            drawn_projection(first + index[n], stored[n].shape[0], stored[n].shape[1], dtypes[n], stream) for n in names
        )
        if all(P.tobytes() == stored[name].tobytes() for name, P in zip(names, drawn, strict=True)):
            return stored, {}, {} if stream == DEFAULT_STREAM else {"stream": stream}
    own: dict[bytes, int] = {}  # one that several modules share is stored once, with the first of them
    for number, name in enumerate(names):
        own.setdefault(stored[name].tobytes(), number)
    places = [own[stored[name].tobytes()] for name in names]
    return stored, {names[number]: stored[names[number]] for number in own.values()}, {"P_of": json.dumps(places)}


def _said_once(values: Sequence[str]) -> str:
    """One word where all are the same, else a JSON list."""
    return values[0] if len(set(values)) == 1 else json.dumps(list(values), separators=(",", ":"))


def _vector(v: Array, v_dtype: str, where: Path) -> Array:
    if v_dtype == "auto":
        narrow = v.astype(ml_dtypes.bfloat16)
        return narrow if np.array_equal(narrow.astype(v.dtype), v) else v
    with np.errstate(over="ignore"):
        narrow = v.astype(float_dtype(v_dtype))
    if not np.all(np.isfinite(narrow.astype(np.float64))):
        raise MismatchError(f"v overflows {v_dtype}", where=where, hint="Leave --v-dtype out.")
    return narrow


def _tell_size(adapter: PeftAdapter, dtypes: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Say beforehand how large an exact file of float32 factors gets."""
    wide = [parts for name, parts in adapter.modules.items() if dtypes[name] == "float32"]
    if wide:
        entries = sum(parts.A.parameters + parts.B.parameters for parts in wide)
        tell(
            f"--exact stores nearly every entry of float32 factors, since no two libraries agree on them: about "
            f"{4 * entries:,} bytes"
        )
