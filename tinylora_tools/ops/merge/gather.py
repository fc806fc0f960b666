"""What adapters ask of their base: each update and each replaced parameter, checked and given its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ...adapters.load import Adapter
from ...adapters.updates import embedding_scale, projected_vectors
from ...bases.orientation import factored_as_stored, is_transposed
from ...bases.quantization import plain_group
from ...bases.tensor_names import BaseNames
from ...core.residual import Triplets
from ...errors import MismatchError, UnsupportedError
from ...formats.digests import check_recorded
from ...formats.tensors import FLOAT_NAMES, numpy_dtype, same_values
from .words import Change, Source, Update


def gather(
    adapters: Sequence[Adapter], scales: Sequence[float], names: BaseNames, release: str | None
) -> dict[str, Change]:
    """What the adapters ask of each parameter, by its name in the model.

    Raises
    ------
    UndeterminedError
        If a P, a group or an embedding's scale can't be known.
    MismatchError, UnsupportedError
        If a tensor isn't in the base, has another shape, or can't be changed; or if two adapters bring different values
        for it.
    """
    changes: dict[str, Change] = {}
    for adapter, scale in zip(adapters, scales, strict=True):
        for parameter, update in _updates(adapter, scale, names, release):
            known = changes.get(parameter) or Change(plain_group(names, parameter))
            changes[parameter] = replace(known, updates=(*known.updates, update))
        for parameter in adapter.header.replaced:
            known = changes.get(parameter) or Change(plain_group(names, parameter))
            if len(adapter.header.replaced[parameter].tensor.shape) > 1:  # norms and the like are tied to nothing
                names.require_known(parameter.rpartition(".")[0])
            changes[parameter] = _replaced(known, parameter, adapter, names)
    return changes


def _updates(adapter: Adapter, scale: float, names: BaseNames, release: str | None) -> Iterator[tuple[str, Update]]:
    """Each module's update, with its parameter's name in the model."""
    for module, R in projected_vectors(adapter, scale).items():
        parts, parameter = adapter.modules[module], f"{module}.weight"
        stored = plain_group(names, parameter).stored
        names.require_updatable(module, release)
        dtype = numpy_dtype(names.base.info(stored).dtype)
        file, replaced = adapter.header.file, adapter.header.replaced.get(parameter)
        transposed = is_transposed(
            names,
            module,
            (parts.out_features, parts.in_features),
            stored,
            triplets=partial(_triplets, adapter, module),
            weight=partial(file.read, replaced.tensor.name) if replaced else None,
        )
        square = transposed and parts.out_features == parts.in_features
        W = partial(names.base.read, stored) if replaced is None else partial(file.read, replaced.tensor.name)
        as_stored = square and factored_as_stored(W(), _triplets(adapter, module))
        scaled = R / embedding_scale(adapter, module, dtype, release)
        yield parameter, Update(adapter, module, scaled, transposed, as_stored)


def _triplets(adapter: Adapter, module: str) -> Triplets:
    return Triplets.from_factors(*adapter.factors(module), np.dtype(np.float32))


def _replaced(change: Change, parameter: str, adapter: Adapter, names: BaseNames) -> Change:
    """A parameter's change with what an adapter brings whole."""
    file, replacement = adapter.header.file, adapter.header.replaced[parameter]
    base_info, info = names.base.info(change.group.stored), replacement.tensor
    if info.shape != base_info.shape:
        raise MismatchError(
            f"{parameter}: the adapter brings shape {info.shape}, the base's {base_info.name} is {base_info.shape}",
            where=file.path,
            hint="Was the vocabulary or the head resized for training? Then save the base resized the same way.",
        )
    if info.dtype not in FLOAT_NAMES:
        raise UnsupportedError(f"{info.name} is stored as {info.dtype}", where=file.path)
    check_recorded(file, [info.name])  # its bytes are copied unseen
    source = Source(file, info)
    if change.replacement is not None and not same(change.replacement, source):
        raise MismatchError(
            f"{parameter}: two adapters bring different values for it, which can't be summed",
            where=file.path,
            hint="Merge only one of them, or train them without modules_to_save and biases.",
        )
    return replace(change, replacement=source, in_place=replacement.in_place)


def same(one: Source, other: Source) -> bool:
    """Whether two tensors hold the same values."""
    return same_values(one.file, one.tensor.name, other.file, other.tensor.name)
