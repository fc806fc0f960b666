"""What packing makes of each module: the factors that a base gives back, measured, and what corrects them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ...bases.modules import Module
from ...core.base_check import OTHER_WEIGHT, moved_above
from ...core.compare import update_distance
from ...core.residual import Triplets, residual_of
from ...core.svd.canonical import Canonical
from ...errors import MismatchError
from ...formats.checkpoint import Checkpoint
from ...formats.packed import INDEX, VALUE, Array
from ...formats.peft_adapter import PeftAdapter
from ...formats.tensors import FLOAT_NAMES, float_dtype

#: The relative error of a module's update above which its factors get corrections.
MOST_ERROR = 1e-3


@dataclass(slots=True)
class RestoredFactors:
    """What is restored of each module, and what had to be said beyond the base."""

    A: dict[str, Array] = field(default_factory=dict)
    B: dict[str, Array] = field(default_factory=dict)
    flipped: list[bool] = field(default_factory=list)
    index: list[Array] = field(default_factory=list)
    value: list[Array] = field(default_factory=list)
    entries: int = 0
    error: float = 0.0


def off_base(base: Checkpoint, adapter: PeftAdapter, module: Module, stored: Array, dtype: str) -> bool:
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
    rho = residual_of(stored, triplets.transposed() if module.kind == "Conv1D" else triplets)
    if not rho <= OTHER_WEIGHT:
        raise MismatchError(
            f"{module.name}: its factors aren't those of the base's weight (residual {rho:.1e})",
            where=base.path,
            hint="Pack with the base that the adapter was trained on; `tinylora verify-base` says more.",
        )
    return rho > moved_above(dtype, FLOAT_NAMES[module.tensor.dtype])


def restore_module(
    adapter: PeftAdapter,
    module: Module,
    canonical: Canonical,
    R: tuple[Array, Array],
    factors: RestoredFactors,
    *,
    exact: bool,
) -> None:
    """Restore one module in memory, measure it, and correct it where that is needed.

    R (r, r) is the adapter's and what is made of v as it is stored; what the latter is off, no correction mends.
    """
    parts = adapter.modules[module.name]
    A, B = (adapter.file.read(info.name).astype(np.float32) for info in (parts.A, parts.B))
    alike = np.einsum("ij,ij->j", canonical.B, B) + np.einsum("ij,ij->i", canonical.A, A)  # (r,)
    flipped = np.asarray(alike < 0.0)
    mine = canonical.signed(flipped)
    off = update_distance((A, B, R[1]), (mine.A, mine.B, R[1]))
    restored = np.concatenate([mine.A.ravel(), mine.B.ravel()])
    wanted = np.concatenate([A.ravel(), B.ravel()])
    fix = np.concatenate([mine.unsure_a.ravel(), mine.unsure_b.ravel()])
    corrected = exact or not off <= MOST_ERROR
    if corrected:
        # bits, not values: the sign of a zero is part of an identical file
        fix = fix | (restored.view(np.uint32) != wanted.view(np.uint32))
        restored = np.where(fix, wanted, restored)
    error = update_distance((A, B, R[0]), (A, B, R[1]) if corrected else (mine.A, mine.B, R[1]))
    places = np.flatnonzero(fix)
    factors.index.append(places + factors.entries)
    factors.value.append(restored[places])
    factors.entries += len(restored)
    factors.A[module.name] = restored[: A.size].reshape(A.shape)
    factors.B[module.name] = restored[A.size :].reshape(B.shape)
    factors.flipped += [bool(x) for x in flipped]
    factors.error = max(factors.error, error)


def corrections_of(factors: RestoredFactors, dtypes: Iterable[str]) -> dict[str, Array]:
    """The entries to store with their places; all of them, without, where that is less."""
    index, value = np.concatenate(factors.index), np.concatenate(factors.value)
    if not len(index):
        return {}
    used = set(dtypes)
    narrow = float_dtype(next(iter(used)) if len(used) == 1 else "float32")
    place = np.dtype(np.uint32 if factors.entries < 2**32 else np.uint64)
    if len(index) * (place.itemsize + narrow.itemsize) < factors.entries * narrow.itemsize:
        return {INDEX: index.astype(place), VALUE: value.astype(narrow)}
    whole = [part.ravel() for name, A in factors.A.items() for part in (A, factors.B[name])]
    return {VALUE: np.concatenate(whole).astype(narrow)}
