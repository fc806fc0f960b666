"""What packing makes of each module: the factors that a base gives back, measured, and what corrects them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bases.modules import Module
from ...bases.orientation import factored_as_stored
from ...core.compare import update_distance
from ...core.residual import Triplets, verdict_on
from ...core.residual_torch import residual_of
from ...core.svd.entries import Canonical
from ...core.torch_arrays import tensor_of
from ...errors import MismatchError, UnsupportedError
from ...formats.packed import INDEX, VALUE
from ...formats.peft.adapter import Factors
from ...formats.tensors import FLOAT_NAMES, float_dtype
from ...wording import call

#: The relative error of a module's update above which its factors get corrections.
MOST_ERROR = 1e-3


@dataclass(frozen=True, slots=True)
class Restored:
    """One module's factors as the file gives them back.

    Attributes
    ----------
    A, B : array
        (r, in) and (out, r) in float32.
    flipped : array of bool
        (r,), the pairs whose signs aren't the canonical ones.
    places, values : array
        The entries that are stored, by their place in A and B one behind the other.
    error : float
        How far the module's update is off, over its norm.
    """

    A: NDArray[Any]
    B: NDArray[Any]
    flipped: NDArray[Any]
    places: NDArray[Any]
    values: NDArray[Any]
    error: float

    @property
    def entries(self) -> int:
        return int(self.A.size + self.B.size)


def off_base(factors: Factors, module: Module, stored: NDArray[Any], dtype: str, base: Path) -> bool:
    """Whether factors are a little off the base's weight; MismatchError where they are another weight's."""
    A, B = factors
    if (module.out_features, module.in_features) != (len(B), A.shape[1]):
        raise MismatchError(
            f"{module.name}: the factors are for a weight of shape ({len(B)}, {A.shape[1]}), the base's is"
            f" ({module.out_features}, {module.in_features})",
            where=base,
            hint="Is this the adapter's base?",
        )
    triplets = Triplets.from_factors(A, B, np.dtype(np.float32))
    if module.kind == "Conv1D" and len(B) == A.shape[1] and factored_as_stored(stored, triplets):
        raise UnsupportedError(
            f"{module.name}: PEFT made its factors of the weight as it is stored, not of its transpose, as it does for "
            "an adapter that is added to another: this form can't hold that",
            where=base,
            hint=f"Merge the adapter, or make it a LoRA adapter: `{call('to_lora', 'ADAPTER', 'LORA')}`.",
        )
    rho = residual_of(tensor_of(stored), triplets.transposed() if module.kind == "Conv1D" else triplets)
    verdict = verdict_on(rho, dtype, FLOAT_NAMES[module.tensor.dtype])
    if verdict == "other":
        raise MismatchError(
            f"{module.name}: its factors aren't those of the base's weight (residual {rho:.1e})",
            where=base,
            hint="Pack with the base that the adapter was trained on; "
            f"`{call('verify_base', 'ADAPTER', base=...)}` says more.",
        )
    return verdict == "moved"


def restored(
    factors: Factors, canonical: Canonical, R: NDArray[Any], stored_R: NDArray[Any], *, exact: bool
) -> Restored:
    """What a module gets back, measured, and corrected where that is needed.

    R (r, r) is the adapter's, `stored_R` what is made of v as it is stored; what that is off, no correction mends.
    """
    A, B = (part.astype(np.float32) for part in factors)
    alike = np.einsum("ij,ij->j", canonical.B, B) + np.einsum("ij,ij->i", canonical.A, A)  # (r,)
    flipped = np.asarray(alike < 0.0)
    mine = canonical.signed(flipped)
    off = update_distance((A, B, stored_R), (mine.A, mine.B, stored_R))
    entries = np.concatenate([mine.A.ravel(), mine.B.ravel()])
    wanted = np.concatenate([A.ravel(), B.ravel()])
    fix = np.concatenate([mine.unsure_a.ravel(), mine.unsure_b.ravel()])
    corrected = exact or not off <= MOST_ERROR
    if corrected:
        # bits, not values: the sign of a zero is part of an identical file
        fix = fix | (entries.view(np.uint32) != wanted.view(np.uint32))
        entries = np.where(fix, wanted, entries)
    places = np.flatnonzero(fix)
    return Restored(
        A=entries[: A.size].reshape(A.shape),
        B=entries[A.size :].reshape(B.shape),
        flipped=flipped,
        places=places,
        values=entries[places],
        error=update_distance((A, B, R), (A, B, stored_R) if corrected else (mine.A, mine.B, stored_R)),
    )


def corrections_of(modules: Sequence[Restored], dtypes: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The entries to store with their places; all of them, without, where that is less."""
    firsts = np.cumsum([0, *(module.entries for module in modules)])
    total = int(firsts[-1])
    index = np.concatenate([module.places + first for module, first in zip(modules, firsts[:-1], strict=True)])
    if not len(index):
        return {}
    used = set(dtypes)
    narrow = float_dtype(next(iter(used)) if len(used) == 1 else "float32")
    place = np.dtype(np.uint32 if total < 2**32 else np.uint64)
    if len(index) * (place.itemsize + narrow.itemsize) < total * narrow.itemsize:
        value = np.concatenate([module.values for module in modules])
        return {INDEX: index.astype(place), VALUE: value.astype(narrow)}
    whole = [part.ravel() for module in modules for part in (module.A, module.B)]
    return {VALUE: np.concatenate(whole).astype(narrow)}
