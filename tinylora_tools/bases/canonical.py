"""What packing and unpacking share: an adapter's modules in the base, their fingerprint, and canonical factors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.svd.entries import Canonical
from ..errors import FormatError, MismatchError
from ..formats.packed import short
from ..formats.peft.config import TinyLoraConfig
from ..formats.tensors import FLOAT_NAMES, fingerprint, float_dtype
from ..progress import Progress
from ..ranks import ranks
from ..workers import Workers, cores
from .base import Base
from .modules import Module, architecture_for, model_modules, open_model
from .quantization import refuse_in_parts, refuse_packed
from .selection import select_plain

if TYPE_CHECKING:
    import torch


def modules_of(
    base: Base, config: TinyLoraConfig, names: Sequence[str] | None, where: Path, *, transposed: Sequence[int] = ()
) -> list[Module]:
    """The modules of an adapter with this configuration, in PEFT's order: those that it selects, or the ones named.

    `where` is the file that the configuration stands in; `transposed` are the places of those whose weights are stored
    (in, out), of a base whose architecture doesn't tell.

    Raises
    ------
    TinyLoraError
        If the base's architecture or order isn't known, or the base lacks a module.
    """
    try:
        config.check_targets()
    except FormatError as error:
        raise FormatError(error.what, where=where, hint=error.hint) from None
    found = _modules_of(base, config, names)
    return [replace(one, kind="Conv1D") if place in transposed else one for place, one in enumerate(found)]


def _modules_of(base: Base, config: TinyLoraConfig, names: Sequence[str] | None) -> list[Module]:
    if names is None:
        model = open_model(base, task_type=config.task_type)
        return list(select_plain(base.checkpoint, model, config).modules)
    architecture = architecture_for(base, config.task_type)
    for release in (None, "4") if architecture else (None,):
        model = model_modules(base.checkpoint, architecture, release=release)
        known = model.modules
        if all(name in known for name in names):
            for name in names:
                refuse_packed(base.checkpoint, known[name].tensor.name)
            return [known[name] for name in names]
    absent = next(name for name in names if name not in known)
    refuse_in_parts(base.checkpoint, model.architecture, absent)
    raise MismatchError(
        f"the base has no module {absent}",
        where=base.path,
        hint="Is this the base that the adapter was packed with?",
    )


def weights_mark(read: Callable[[str], NDArray[Any]], modules: Sequence[Module]) -> str:
    """One fingerprint of all target weights, in their order, from one pass over their bytes."""
    share = sorted(ranks().share([module.tensor.nbytes for module in modules]))
    with Workers(cores()) as pool:
        mine = dict(zip(share, pool.map(lambda at: fingerprint(read(modules[at].tensor.name)), share), strict=True))
    marks = {place: mark for one in ranks().gathered(mine) for place, mark in one.items()}
    return short(hashlib.sha256("".join(marks[place] for place in range(len(modules))).encode()).digest())


def canonical_of(
    base: Base,
    modules: Sequence[Module],
    rank: int,
    dtypes: Mapping[str, str],
    *,
    device: torch.device,
    progress: Progress,
    check: Callable[[Module, NDArray[Any]], None] = lambda module, stored: None,
) -> dict[str, Canonical]:
    """Canonical factors of each module's weight, rounded first to the dtype that the module was trained in.

    `check` sees each weight as it is stored; it may be called from several threads.
    """
    from ..core.svd.canonical import canonical_factors  # which needs torch
    from .weights import as_matrix, over_modules

    def one(module: Module) -> Canonical:
        stored = base.checkpoint.read(module.tensor.name)
        check(module, stored)
        if dtypes[module.name] != FLOAT_NAMES[module.tensor.dtype]:
            with np.errstate(over="ignore"):
                stored = stored.astype(float_dtype(dtypes[module.name]))
        return canonical_factors(as_matrix(stored, module, device), rank)

    return {
        module.name: canonical
        for module, canonical in over_modules(
            "Factoring", modules, one, device=device, progress=progress, where=base.path
        )
    }
