"""PEFT 0.19's lost seed, recovered: which of its 10,000 offsets explains what the adapter did."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...adapters.load import Adapter
from ...adapters.provenance import HASHED_OFFSETS, provenance, shared_offsets, stored_projections
from ...bases.base import Base
from ...bases.quantization import plain_group
from ...bases.tensor_names import BaseNames
from ...core.lowrank import training_dtype
from ...core.streams import projection
from ...errors import MismatchError, UndeterminedError
from ...formats.peft.adapter import find_adapter, read_adapter
from ...sources.locate import locate
from ...wording import argument

#: The share of an update that rounding and the offset's P may leave unexplained.
_UNEXPLAINED = 0.2
_MOST_MODULES = 8


def recover_offset(adapter: Adapter, against: str | Path, base: Base | None) -> int:
    """The offset whose P explains `against`: an adapter with P, or a checkpoint that this adapter was merged into.

    Raises
    ------
    UndeterminedError
        If none or several explain it, or a base is needed and not given.
    MismatchError
        If the modules aren't in `against`.
    """
    if not adapter.header.has_config:
        raise UndeterminedError(
            "the seed isn't known", where=adapter.path, hint="Put its adapter_config.json beside it."
        )
    at = locate(against)
    if not at.is_dir() or find_adapter(at) is not None:
        return _from_stored(adapter, at)
    if base is None:
        raise UndeterminedError(
            "a merged checkpoint tells the update only beside its base",
            where=at,
            hint=f"Name it with {argument('base')}.",
        )
    return _from_merged(adapter, Base(at), base)


def _from_stored(adapter: Adapter, against: Path) -> int:
    other = read_adapter(against)
    stored = stored_projections(other)
    same = {module: P.astype(np.float32) for module, P in stored.items() if module in adapter.modules}
    if not same:
        raise MismatchError("it stores no P of these modules", where=against, hint="Name an adapter with P.")
    expected = {(adapter.config.u, *(2 * (adapter.modules[module].rank,))) for module in same}
    if not {P.shape for P in same.values()} <= expected or (len(stored) > 1 and not provenance(other).shared):
        raise MismatchError(
            "its P aren't one for all modules of this adapter's u and r, as PEFT 0.19 draws them",
            where=against,
            hint="Name an adapter that the same process saved with its P, or what this one was merged into.",
        )
    offsets, _ = shared_offsets(same, adapter.seed)
    if len(offsets) != 1:
        raise UndeterminedError(f"{len(offsets)} of {HASHED_OFFSETS} offsets draw its P", where=against)
    return offsets[0]


def _from_merged(adapter: Adapter, merged: Base, base: Base) -> int:
    groups = adapter.groups
    before, after = (BaseNames(one.checkpoint, adapter.architecture) for one in (base, merged))
    gap, total, seed = np.zeros(HASHED_OFFSETS), 0.0, adapter.seed
    for module, parts in list(adapter.modules.items())[:_MOST_MODULES]:
        old, new = (names.base.read(plain_group(names, f"{module}.weight").stored) for names in (before, after))
        delta = new.astype(np.float64) - old.astype(np.float64)
        if before.kind(module) == "Conv1D":
            delta = delta.T
        A, B = (part.astype(np.float64) for part in adapter.factors(module))
        R = np.linalg.pinv(B) @ delta @ np.linalg.pinv(A)  # (r, r)
        v = adapter.vector(groups[module]).astype(np.float64)
        P = projection.draw_many(range(seed, seed + HASHED_OFFSETS), len(v), parts.rank)
        P = projection.round_to(P, training_dtype(A.astype(np.float32), B.astype(np.float32)))
        tried = np.einsum("i,nijk->njk", v, P.astype(np.float64))  # (offsets, r, r)
        gap += np.sum((tried - R) ** 2, axis=(1, 2))
        total += float(np.sum(R**2))
    left = np.sqrt(gap / total) if total else np.ones(HASHED_OFFSETS)
    fitting = np.flatnonzero(left <= _UNEXPLAINED)
    if len(fitting) != 1:
        raise UndeterminedError(
            f"{len(fitting)} of {HASHED_OFFSETS} offsets explain the difference between the two checkpoints "
            f"(the best leaves {left.min():.0%} of it)",
            where=merged.path,
            hint="Is this a merge of this adapter alone, into this base?",
        )
    return int(fitting[0])
