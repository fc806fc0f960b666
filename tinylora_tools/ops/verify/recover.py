"""PEFT 0.19's lost seed, recovered: which of its 10,000 offsets explains what the adapter did."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...adapters.load import LoadedAdapter
from ...bases.tensor_names import BaseNames
from ...core.lowrank import Array, training_dtype
from ...core.streams import projection
from ...errors import MismatchError, UndeterminedError
from ...formats.checkpoint import Checkpoint, read_checkpoint
from ...formats.peft_adapter import find_adapter, read_adapter
from .adapter import HASHED_OFFSETS, shared_offsets

#: The share of an update that rounding and the offset's P may leave unexplained.
_UNEXPLAINED = 0.2
_MOST_MODULES = 8


def recover_offset(loaded: LoadedAdapter, against: Path, base: Path | None) -> int:
    """The offset whose P explains `against`: an adapter with P, or a checkpoint that this adapter was merged into.

    Raises
    ------
    UndeterminedError
        If none or several explain it, or a base is needed and not given.
    MismatchError
        If the modules aren't in `against`.
    """
    adapter = loaded.adapter
    if adapter.config is None:
        raise UndeterminedError(
            "the seed isn't known", where=adapter.path, hint="Put its adapter_config.json beside it."
        )
    seed = adapter.config.projection_seed
    if (against.is_dir() and find_adapter(against) is not None) or not against.is_dir():
        other = read_adapter(against)
        stored = {m: other.file.read(f.P.name).astype(np.float32) for m, f in other.modules.items() if f.P is not None}
        stored = {module: P for module, P in stored.items() if module in adapter.modules}
        if not stored:
            raise MismatchError("it stores no P of these modules", where=against, hint="Name an adapter with P.")
        offsets, _ = shared_offsets(stored, seed)
        if len(offsets) != 1:
            raise UndeterminedError(f"{len(offsets)} of {HASHED_OFFSETS} offsets draw its P", where=against)
        return offsets[0]
    if base is None:
        raise UndeterminedError(
            "a merged checkpoint tells the update only beside its base", where=against, hint="Name it with --base."
        )
    return _from_merged(loaded, read_checkpoint(against), read_checkpoint(base), seed)


def _from_merged(loaded: LoadedAdapter, merged: Checkpoint, base: Checkpoint, seed: int) -> int:
    adapter, group = loaded.adapter, loaded.numbering.group
    if group is None:
        raise loaded.numbering.doubts[0]
    before, after = (BaseNames(checkpoint, loaded.architecture) for checkpoint in (base, merged))
    gap, total = np.zeros(HASHED_OFFSETS), 0.0
    for module, parts in list(adapter.modules.items())[:_MOST_MODULES]:
        old, new = (_weight(names, module) for names in (before, after))
        delta = new.astype(np.float64) - old.astype(np.float64)
        if before.kind(module) == "Conv1D":
            delta = delta.T
        A, B = (adapter.file.read(part.name).astype(np.float64) for part in (parts.A, parts.B))
        R = np.linalg.pinv(B) @ delta @ np.linalg.pinv(A)  # (r, r)
        v = adapter.file.read(adapter.vectors[group[module]].name).astype(np.float64)
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


def _weight(names: BaseNames, module: str) -> Array:
    key = names.group(f"{module}.weight").stored
    return names.base.shards[names.base.shard_of[key]].read(key)
