"""Modules that an adapter's file lacks, computed from the base and the seed as PEFT computes them when it loads it.

Factors are unique up to the signs of their pairs, which the library of a machine chooses and v was trained with. So the
factors that the file holds are computed too: only where this machine gives them their signs are the others taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bases.base import Base
from ..bases.modules import Module
from ..bases.weights import as_matrix, over_modules
from ..core.compare import update_distance
from ..core.streams import projection
from ..core.svd.as_library import library_factors, same_signs
from ..core.torch_arrays import check_device
from ..errors import MismatchError, UndeterminedError
from ..formats.memory_file import MemoryFile
from ..formats.peft.adapter import Factors, sort_keys
from ..formats.peft.keys import factor_key
from ..formats.tensors import float_dtype, numpy_dtype
from ..progress import NoProgress, Progress
from .completeness import targeted_modules
from .counting import alone
from .load import Adapter
from .provenance import KNOWN_STREAMS, regime

#: Pairs whose signs have to agree, where there are as many: a library that chooses otherwise gets one right in two.
_PAIRS = 24

#: How far factors of the very weight may be off, over their norm.
_NEAR = 0.02


def completed(adapter: Adapter, *, device: str = "cpu", progress: Progress | None = None) -> Adapter:
    """The adapter with the modules that its file lacks; the same where it lacks none.

    Parameters
    ----------
    adapter : Adapter
        With its base.
    device : str
        Where factors are computed; PEFT computes them where the model is loaded to.
    progress : Progress, optional

    Raises
    ------
    UndeterminedError
        If what is missing can't be computed with certainty: no base tells it, a P's seed isn't known, or this machine
        gives the factors that are there other signs.
    MismatchError
        If what is missing was trained: a vector, or a bias.
    """
    header, wanted = adapter.header, targeted_modules(adapter)
    if not wanted:
        raise UndeterminedError(
            "nothing tells what the configuration targets: its base isn't at hand, or its architecture isn't known",
            where=header.file.path,
            hint="Name the base that it was trained on.",
        )
    missing = [module for module in wanted if module.name not in header.modules]
    if not missing or adapter.base is None:
        return adapter
    _require_trained(adapter, wanted)
    checked = _to_check(adapter, wanted, missing)
    trained_in = _training_dtype(adapter)
    P = _projections(adapter, wanted, missing, trained_in)
    modules = [*checked, *missing]
    factors = _factors(adapter.base, modules, adapter.config.r, trained_in, device, progress or NoProgress())
    pairs = _check_signs(adapter, {module.name: factors[module.name] for module in checked})
    stored = {name: header.file.read(name) for name in header.file.tensors if name not in header.leaked_keys}
    dtype = numpy_dtype(next(iter(header.modules.values())).A.dtype)
    for module in missing:
        A, B = factors[module.name]
        parts = {"A": A, "B": B} | ({"P": P[module.name]} if module.name in P else {})
        stored |= {factor_key(module.name, part): values.astype(dtype) for part, values in parts.items()}
    whole = sort_keys(header.path, MemoryFile(header.file.path, stored, header.file.metadata), header.config)
    return adapter.holding(whole, _told(missing, pairs, stored_p=bool(P)))


def _told(missing: Sequence[Module], pairs: int, *, stored_p: bool) -> str:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    parts = "A, B and P" if stored_p else "A and B"
    return (
        f"{missing[0].name}{more} weren't in the file: {parts} were computed from the base and the seed, with the "
        f"signs that this machine's library chooses; it chooses those of the {pairs} pairs of the file that were "
        "compared, too"
    )


def _require_trained(adapter: Adapter, wanted: Sequence[Module]) -> None:
    """Raise MismatchError where what was trained is lost."""
    groups = set(alone([module.name for module in wanted], adapter.config.weight_tying).group.values())
    lost = sorted(groups - adapter.header.vectors.keys())
    what = f"the trained vector of group {lost[0]} isn't in the file" if lost else ""
    if adapter.config.bias != "none":
        what = what or "biases were trained along, and those of the missing modules aren't in the file"
    if what:
        raise MismatchError(
            f"{what}: it can't be computed",
            where=adapter.header.file.path,
            hint="Save the adapter again from the process that trained it, once the other adapter is deleted or has "
            "another name; or load a training checkpoint.",
        )


def _to_check(adapter: Adapter, wanted: Sequence[Module], missing: Sequence[Module]) -> list[Module]:
    """Modules that the file holds and whose signs are compared: of the missing ones' shapes first."""
    shapes = {module.tensor.shape for module in missing}
    held = sorted((m for m in wanted if m.name in adapter.modules), key=lambda m: m.tensor.shape not in shapes)
    found: list[Module] = []
    for module in held:
        if sum(adapter.modules[one.name].rank for one in found) < _PAIRS:
            found.append(module)
    if not found:
        raise UndeterminedError(
            "the file holds no module at all that would tell which signs its factors had",
            where=adapter.header.file.path,
            hint="Save the adapter again from the process that trained it.",
        )
    return found


def _training_dtype(adapter: Adapter) -> str:
    """The dtype that the model was trained in, by the factors that there are."""
    found = {adapter.training_dtype(name) for name in adapter.modules}
    if len(found) > 1:
        raise UndeterminedError(
            f"the model was trained in {' and '.join(sorted(found))}: which one the missing modules had isn't known",
            where=adapter.header.file.path,
            hint="Let PEFT load the adapter, and save it anew.",
        )
    return next(iter(found))


def _factors(
    base: Base, modules: Sequence[Module], rank: int, dtype: str, device: str, progress: Progress
) -> Mapping[str, Factors]:
    where = check_device(device)

    def one(module: Module) -> Factors:
        stored = base.checkpoint.read(module.tensor.name).astype(float_dtype(dtype), copy=False)
        return Factors(*library_factors(as_matrix(stored, module, where), rank))

    found = over_modules("Factoring", modules, one, device=where, progress=progress, where=base.path)
    return {module.name: factors for module, factors in found}


def _check_signs(adapter: Adapter, computed: Mapping[str, Factors]) -> int:
    """The number of pairs that have the signs of the file's; UndeterminedError where one has not."""
    pairs = 0
    for name, (A, B) in computed.items():
        stored = adapter.factors(name)
        same = same_signs(A, B, *stored)
        sign = np.where(same, 1.0, -1.0).astype(np.float32)
        off = update_distance((*stored, np.eye(len(same))), (A * sign[:, None], B * sign, np.eye(len(same))))
        if not off <= _NEAR:
            raise MismatchError(
                f"{name}: the factors in the file aren't those of the base's weight (they differ by {off:.1%})",
                where=adapter.header.file.path,
                hint="Name the very base that the adapter was trained on, in the same dtype.",
            )
        if not same.all():
            raise UndeterminedError(
                f"{name}: this machine's library turns the signs of the file's factors, so it would turn those of what "
                "is missing too, and make another adapter of it",
                where=adapter.header.file.path,
                hint="Do it on the machine that trained the adapter, with the same torch.",
            )
        pairs += len(same)
    return pairs


def _projections(
    adapter: Adapter, wanted: Sequence[Module], missing: Sequence[Module], dtype: str
) -> dict[str, NDArray[Any]]:
    """P (u, r, r) in float32 of what is missing; none where the file leaves all P to the seed."""
    header = adapter.header
    if not any(parts.P is not None for parts in header.modules.values()):
        return {}
    config, ranks = adapter.config, {module.name: module.rank(adapter.config.r) for module in wanted}
    if regime(header, adapter.provenance) == "shared-projection":
        by_rank = {parts.rank: name for name, parts in header.modules.items()}
        if {ranks[module.name] for module in missing} <= by_rank.keys():
            return {module.name: adapter.projection(by_rank[ranks[module.name]]) for module in missing}
    seeds = range(config.projection_seed, config.projection_seed + len(wanted))
    for stream in KNOWN_STREAMS:
        each = projection.draw_rounded(seeds, config.u, [*ranks.values()], [dtype] * len(ranks), stream=stream)
        drawn = dict(zip(ranks, each, strict=True))
        if all(drawn[name].tobytes() == adapter.projection(name).tobytes() for name in header.modules):
            return {module.name: drawn[module.name] for module in missing}
    raise UndeterminedError(
        "what drew the stored P isn't known, so those of the missing modules can't be drawn",
        where=header.file.path,
        hint="Save the adapter again from the process that trained it.",
    )
