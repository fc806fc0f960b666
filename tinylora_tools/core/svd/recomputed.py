"""Are an adapter's factors those that PEFT would make of a weight? Letters as in `lowrank`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..torch_arrays import array_of, tensor_of
from .triplets import Factors, match_signs, rounded_as_peft, top_triplets

#: The share of 16-bit entries that may differ on the very weight, where gaps are wide: rounding that went the other
#: way, by one unit. A weight that moved by a thousandth changes a tenth of them.
_FEW = 0.01

#: Differing entries that are no evidence in a small module.
_CHANCE = 3

#: By how much float32 decompositions turn a vector, for a gap of 1; and the largest turn that is still evidence.
_TURN = 2e-6
_LARGEST_TURN = 5e-3

_UNITS = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Stored factors beside those computed from a weight, over the triplets that aren't zero.

    Attributes
    ----------
    agreement : float, optional
        The share of entries that are the same bit for bit; None for float32 factors, which no two libraries agree on.
    difference : float
        The largest distance of a triplet's entries, relative to their norm.
    gap : float
        The smallest distance between neighbouring singular values, over s_1.
    same : bool
        Whether nothing but rounding sets them apart.
    determined : bool
        Whether any triplet stands apart enough for that to mean something.
    """

    agreement: float | None
    difference: float
    gap: float
    same: bool
    determined: bool


def recompute(W: Tensor, A: NDArray[Any], B: NDArray[Any], dtype: str) -> Recomputed:
    """Compare A (r, in) and B (out, r), made in `dtype`, with the factors of W (out, in), which is of that dtype."""
    stored = tensor_of(A).to(W.device), tensor_of(B).to(W.device)
    factors = match_signs(top_triplets(W, len(A), near=stored), *stored)
    mine_a, mine_b = (
        array_of(part) for part in rounded_as_peft(factors, torch.float32 if dtype == "float32" else W.dtype)
    )
    separations = _separations(factors)
    difference, same_entries, entries = 0.0, 0, 0
    expected, evidence, near = 0.0, 0, True
    for k, separation in enumerate(separations):
        mine, theirs = np.concatenate([mine_a[k], mine_b[:, k]]), np.concatenate([A[k], B[:, k]]).astype(np.float32)
        norm = float(np.linalg.norm(theirs.astype(np.float64)))
        if norm == 0.0:
            continue
        apart = float(np.linalg.norm(mine.astype(np.float64) - theirs)) / norm
        difference = max(difference, apart)
        turn = _TURN / max(separation, 1e-30)
        if turn > _LARGEST_TURN:
            continue
        evidence += 1
        if dtype == "float32":
            near = near and apart <= 10 * turn
        else:
            entries += len(theirs)
            same_entries += int(np.sum(mine == theirs))
            expected += len(theirs) * (_FEW + min(1.0, turn / _UNITS[dtype]))
    near = near and entries - same_entries <= expected + _CHANCE
    agreement = same_entries / entries if entries else None
    return Recomputed(agreement, difference, min(separations), same=near, determined=evidence > 0)


def _separations(factors: Factors) -> list[float]:
    """Each triplet's distance to its nearest neighbour, over s_1."""
    gaps = factors.certificate.gaps
    return [min(gap, gaps[k - 1] if k else gap) for k, gap in enumerate(gaps)]
