"""Which way round a targeted weight is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ..core.residual import OTHER_WEIGHT, Triplets, residual_of
from ..errors import MismatchError, TinyLoraError, UndeterminedError
from ..formats.checkpoint import Checkpoint
from .tensor_names import BaseNames


def is_transposed(
    names: BaseNames,
    module: str,
    expected: tuple[int, int],
    key: str,
    *,
    triplets: Callable[[], Triplets],
    weight: Callable[[], NDArray[Any]] | None = None,
) -> bool:
    """Whether a weight is stored (in, out). The layer's type decides, or else the shape, or for a square weight the
    weight itself; never the flag in the adapter's configuration, which is what the last layer left there.

    Parameters
    ----------
    names : BaseNames
    module : str
    expected : (out, in)
        Of the adapter's factors.
    key : str
        The weight's name in the base.
    triplets : callable
        The adapter's singular triplets of it, asked for only where the weight has to decide.
    weight : callable, optional
        What an adapter brings in its place.

    Raises
    ------
    MismatchError
        If the shapes don't fit.
    UndeterminedError
        If nothing decides.
    """
    shape, kind = names.base.info(key).shape, names.kind(module)
    if kind is None and shape == expected == expected[::-1]:
        W = weight() if weight is not None else names.base.read(key)
        return _fits_transposed(names.base, module, W, triplets())
    transposed = kind == "Conv1D" if kind is not None else shape != expected
    if shape != (expected[::-1] if transposed else expected):
        wanted = expected[::-1] if kind == "Conv1D" else expected
        raise MismatchError(
            f"{module}: the adapter's factors are for a weight of shape {wanted}, {key} is {shape}",
            where=names.base.path,
            hint="Is this the base that the adapter was trained on?",
        )
    return transposed


def factored_as_stored(W: NDArray[Any], triplets: Triplets) -> bool:
    """Whether an adapter's factors are those of a square Conv1D weight as it is stored, (in, out), instead of its
    transpose.

    PEFT makes them so for an adapter that is added to a layer which another one wrapped (`_init_svd`, by a
    fan_in_fan_out that nothing set). Its forward pass then still adds B R A as that of (out, in).
    """
    return residual_of(W, triplets) <= OTHER_WEIGHT < residual_of(W, triplets.transposed())


def untransposed(names: BaseNames, module: str, expected: tuple[int, int]) -> bool:
    """Whether factors for a weight of shape `expected` (out, in) are those of a Conv1D's stored one, (in, out), that
    isn't square: PEFT makes them for an added adapter too, whose forward pass then fails."""
    if names.kind(module) != "Conv1D" or expected[0] == expected[1]:
        return False
    try:
        return names.base.info(names.group(f"{module}.weight").stored).shape == expected
    except TinyLoraError:
        return False


def _fits_transposed(base: Checkpoint, module: str, W: NDArray[Any], triplets: Triplets) -> bool:
    """Which way round a square weight has the adapter's singular vectors."""
    straight, transposed = (residual_of(W, one) for one in (triplets, triplets.transposed()))
    if min(straight, transposed) > OTHER_WEIGHT or max(straight, transposed) < OTHER_WEIGHT:
        raise UndeterminedError(
            f"{module}: its weight is square, its layer's type isn't known, and the weight doesn't tell which way "
            f"round it is stored (residuals {straight:.2g} and {transposed:.2g})",
            where=base.path,
            hint="Is this the adapter's base? Then give it a config.json that names a known architecture.",
        )
    return transposed < straight
