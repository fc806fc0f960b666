"""An adapter in about a kilobyte, with the way back proven before a byte is written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..core.canonical import Canonical
from ..core.compare import update_distance
from ..core.lowrank import training_dtype
from ..core.projection import DEFAULT_STREAM
from ..core.residual import Triplets, residual_of
from ..core.torch_arrays import check_device
from ..core.tying import group_of
from ..errors import MismatchError, UndeterminedError, UnsupportedError
from ..formats.checkpoint import Checkpoint, read_checkpoint
from ..formats.packed import FORMAT, INDEX, VALUE, VERSION, Array, lean_config
from ..formats.peft_adapter import PeftAdapter
from ..formats.safetensors_file import write_file
from ..formats.tensors import FLOAT_NAMES
from .base_check import OTHER_WEIGHT, moved_above
from .load import LoadedAdapter, load_adapter
from .model_modules import Module
from .packing import compute, digest_of, modules_of, short, weights_mark
from .peft_files import require_drawable
from .progress import NoProgress, Progress
from .projections import projections
from .staging import staged_file
from .updates import check_adapter, projected_vectors
from .weights import read_weight

#: The relative error of a module's update above which its factors get corrections.
MOST_ERROR = 1e-3


@dataclass(frozen=True, slots=True)
class PackReport:
    """All that `tinylora convert --to packed` says; `error` is the largest relative error of a module's update."""

    output: str
    to: str
    modules: int
    payload_bytes: int
    correction_bytes: int
    other_bytes: int
    bytes_written: int
    bytes_read: int
    error: float
    corrections: int
    factor_entries: int
    seconds: float
    warnings: list[str]


@dataclass(slots=True)
class _Factors:
    """What is restored of each module, and what had to be said beyond the base."""

    A: dict[str, Array] = field(default_factory=dict)
    B: dict[str, Array] = field(default_factory=dict)
    flipped: list[bool] = field(default_factory=list)
    index: list[Array] = field(default_factory=list)
    value: list[Array] = field(default_factory=list)
    entries: int = 0
    error: float = 0.0


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
    progress : Progress, optional

    Raises
    ------
    TinyLoraError
        For an adapter that isn't sound, or whose factors aren't the base's.
    """
    started = time.perf_counter()
    where = check_device(device, "Leave --device out to compute on the CPU.")
    checkpoint = read_checkpoint(base)
    loaded = load_adapter(path, base_config=checkpoint.config, module_order=module_order)
    check_adapter(loaded)
    adapter, numbering = loaded.adapter, loaded.numbering
    if adapter.config is None:
        raise UndeterminedError("no adapter_config.json beside the adapter", where=path, hint="Put it beside the file.")
    R = projected_vectors(loaded)
    if numbering.index is None or numbering.group is None:
        raise numbering.doubts[0]
    names = sorted(adapter.modules, key=numbering.index.__getitem__)
    modules, told = _modules(checkpoint, adapter, names)
    dtypes = {m.name: _training_dtype(adapter, m.name) for m in modules}
    computed = compute(checkpoint, modules, adapter.config.rank, dtypes, where, progress or NoProgress())
    factors, moved = _Factors(), []
    for module in modules:
        if _residual(checkpoint, adapter, module, dtypes[module.name]):
            moved.append(module.name)
        _restore(adapter, module, computed[module.name].canonical, R[module.name], factors, exact=exact)
    drawn, own, metadata = _projections(loaded, names)
    metadata |= {
        "format": FORMAT,
        "version": VERSION,
        "config": lean_config(adapter.config.raw),
        "weights": weights_mark(computed, modules),
        "signs": short(np.packbits(np.array(factors.flipped, dtype=bool)).tobytes()),
        "A": digest_of(factors.A[name] for name in names),
        "B": digest_of(factors.B[name] for name in names),
        "P": digest_of(drawn[name] for name in names),
        "dtypes": _said_once([dtypes[name] for name in names]),
        "error": f"{factors.error:.1e}",
    }
    if not told:
        metadata["modules"] = json.dumps(names, separators=(",", ":"))
    stored = _said_once([FLOAT_NAMES[adapter.modules[name].A.dtype] for name in names])
    v_stored = FLOAT_NAMES[next(iter(adapter.vectors.values())).dtype]
    metadata |= {key: name for key, name in (("stored", stored), ("v", v_stored)) if name != "float32"}
    groups = [numbering.group[name] for name in names]
    if groups != [group_of(i, len(names), adapter.config.weight_tying) for i in range(len(names))]:
        metadata["groups"] = json.dumps(groups, separators=(",", ":"))
    vectors = {f"v.{g}": _vector(adapter.file.read(info.name), v_dtype) for g, info in adapter.vectors.items()}
    corrections = _corrections(factors, dtypes.values())
    others = {
        replacement.tensor.name: adapter.file.read(replacement.tensor.name) for replacement in adapter.replaced.values()
    }
    tensors = {**vectors, **corrections, **{f"P.{names.index(n)}": P for n, P in own.items()}, **others}
    with staged_file(output, force=force) as partial:
        write_file(partial, tensors, metadata)
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
        corrections=count,
        factor_entries=factors.entries,
        seconds=time.perf_counter() - started,
        warnings=_moved(moved),
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
        modules = modules_of(base, config, None)
        if [m.name for m in modules] == names:
            return modules, True
    except (MismatchError, UndeterminedError, UnsupportedError):
        pass
    return modules_of(base, config, names), False


def _training_dtype(adapter: PeftAdapter, name: str) -> str:
    parts = adapter.modules[name]
    return training_dtype(adapter.file.read(parts.A.name), adapter.file.read(parts.B.name))


def _residual(base: Checkpoint, adapter: PeftAdapter, module: Module, dtype: str) -> bool:
    """Whether the factors are a little off the base's weight; MismatchError where they are another weight's."""
    parts = adapter.modules[module.name]
    A, B = adapter.file.read(parts.A.name), adapter.file.read(parts.B.name)
    if (module.out_features, module.in_features) != (len(B), A.shape[1]):
        raise MismatchError(
            f"{module.name}: the factors are for a weight of shape ({len(B)}, {A.shape[1]}), the base's is"
            f" ({module.out_features}, {module.in_features})",
            where=base.path,
            hint="Is this the adapter's base?",
        )
    triplets = Triplets.from_factors(A, B, np.dtype(np.float32))
    stored = read_weight(base, module)
    rho = residual_of(stored, triplets.transposed() if module.kind == "Conv1D" else triplets)
    if not rho <= OTHER_WEIGHT:
        raise MismatchError(
            f"{module.name}: its factors aren't those of the base's weight (residual {rho:.1e})",
            where=base.path,
            hint="Pack with the base that the adapter was trained on; `tinylora verify-base` says more.",
        )
    return rho > moved_above(dtype, FLOAT_NAMES[module.tensor.dtype])


def _restore(
    adapter: PeftAdapter, module: Module, canonical: Canonical, R: Array, factors: _Factors, *, exact: bool
) -> None:
    """Restore one module in memory, measure it, and correct it where that is needed."""
    parts = adapter.modules[module.name]
    A, B = (adapter.file.read(info.name).astype(np.float32) for info in (parts.A, parts.B))
    alike = np.einsum("ij,ij->j", canonical.B, B) + np.einsum("ij,ij->i", canonical.A, A)  # (r,)
    flipped = np.asarray(alike < 0.0)
    mine = canonical.signed(flipped)
    error = update_distance((A, B), (mine.A, mine.B), R)
    restored = np.concatenate([mine.A.ravel(), mine.B.ravel()])
    wanted = np.concatenate([A.ravel(), B.ravel()])
    fix = np.concatenate([mine.unsure_a.ravel(), mine.unsure_b.ravel()])
    if exact or error > MOST_ERROR:
        # bits, not values: the sign of a zero is part of an identical file
        fix = fix | (restored.view(np.uint32) != wanted.view(np.uint32))
        restored = np.where(fix, wanted, restored)
        error = 0.0
    places = np.flatnonzero(fix)
    factors.index.append(places + factors.entries)
    factors.value.append(restored[places])
    factors.entries += len(restored)
    factors.A[module.name] = restored[: A.size].reshape(A.shape)
    factors.B[module.name] = restored[A.size :].reshape(B.shape)
    factors.flipped += [bool(x) for x in flipped]
    factors.error = max(factors.error, error)


def _projections(loaded: LoadedAdapter, names: list[str]) -> tuple[dict[str, Array], dict[str, Array], dict[str, str]]:
    """P of each module; those that the file has to hold; and what the metadata say of the rest."""
    drawn = projections(loaded.adapter, loaded.numbering.index)
    if not loaded.adapter.has_projections:
        return drawn, {}, {}
    try:
        stream = require_drawable(loaded)
        return drawn, {}, {} if stream == DEFAULT_STREAM else {"stream": stream}
    except UnsupportedError:
        pass
    own: dict[str, Array] = {}
    seen: set[bytes] = set()
    for name in names:  # one that several modules share is stored once, with the first of them
        if drawn[name].tobytes() not in seen:
            seen.add(drawn[name].tobytes())
            own[name] = drawn[name]
    return drawn, own, {"P_of": json.dumps([_first_with(own, drawn[name], names) for name in names])}


def _first_with(own: Mapping[str, Array], P: Array, names: list[str]) -> int:
    return next(names.index(name) for name, other in own.items() if other.tobytes() == P.tobytes())


def _said_once(values: Sequence[str]) -> str:
    """One word where all are the same, else a JSON list."""
    return values[0] if len(set(values)) == 1 else json.dumps(list(values), separators=(",", ":"))


def _vector(v: Array, v_dtype: str) -> Array:
    if v_dtype == "auto":
        narrow = v.astype(ml_dtypes.bfloat16)
        return narrow if np.array_equal(narrow.astype(v.dtype), v) else v
    return v.astype({"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[v_dtype])


def _corrections(factors: _Factors, dtypes: Any) -> dict[str, Array]:
    index = np.concatenate(factors.index)
    if not len(index):
        return {}
    value = np.concatenate(factors.value)
    used = set(dtypes)
    narrow = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}.get(next(iter(used))) if len(used) == 1 else None
    small = factors.entries < 2**32
    return {INDEX: index.astype(np.uint32 if small else np.uint64), VALUE: value.astype(narrow) if narrow else value}
