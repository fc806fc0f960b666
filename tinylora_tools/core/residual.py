"""Does a weight have these singular triplets? A check without a decomposition, and what its result means.

For singular triplets W v = s u and W^T u = s v: two thin products tell whether an adapter's factors belong to a weight.
Letters as in `lowrank`.

The thresholds were measured over Gaussian, power-law and outlier spectra, with the rounding of each dtype in A and B: a
weight's own factors leave at most 1.4e-2 (bfloat16), 1.3e-3 (float16) or 2.4e-6 (float32) of s_1; a float32 adapter on
the bfloat16 copy of its base 2e-4 to 1.2e-3; fine-tuning by 5% or 20% 7e-3 to 1.5e-1; another model 1 or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: Above this the factors are another weight's.
OTHER_WEIGHT = 0.3

#: Above this the weight has moved since it was factored, by the dtype of the factors (and of the base).
_MOVED_16_BIT_FACTORS = 0.02
_MOVED_16_BIT_BASE = 2e-3
_MOVED = 1e-4

Verdict = Literal["own", "moved", "other"]

#: Triplets up to which a product with each vector takes less time than one with a matrix of them.
_FEW = 3


def verdict_on(rho: float, factors_dtype: str, base_dtype: str) -> Verdict:
    """What a residual says of a weight: "own" where rounding explains it, "moved" where the weight has changed since it
    was factored, "other" for another weight's factors, and for NaN.

    Parameters
    ----------
    rho : float
        As `BaseResidual.rho`.
    factors_dtype : str
        What the factors were rounded to: "bfloat16", "float16" or "float32".
    base_dtype : str
        Of the weight at hand.
    """
    if not rho <= OTHER_WEIGHT:
        return "other"
    if factors_dtype != "float32":
        limit = _MOVED_16_BIT_FACTORS
    else:
        limit = _MOVED_16_BIT_BASE if base_dtype in ("bfloat16", "float16") else _MOVED
    return "moved" if rho > limit else "own"


@dataclass(frozen=True, slots=True)
class Triplets:
    """Unit singular vectors and values to check a weight against; zero triplets are left out.

    U (rows, k), S (k,), Vh (k, columns), in the orientation in which the weight is stored.
    """

    U: NDArray[Any]
    S: NDArray[Any]
    Vh: NDArray[Any]

    @classmethod
    def from_factors(cls, A: NDArray[Any], B: NDArray[Any], dtype: np.dtype[Any]) -> Triplets:
        """From A (r, in) and B (out, r), whose squared column norms are the singular values."""
        norm_b = np.sqrt(np.sum(B.astype(np.float64) ** 2, axis=0))  # (r,)
        norm_a = np.sqrt(np.sum(A.astype(np.float64) ** 2, axis=1))  # (r,)
        keep = (norm_b > 0) & (norm_a > 0)
        U = (B[:, keep] / norm_b[keep]).astype(dtype)
        Vh = (A[keep] / norm_a[keep, None]).astype(dtype)
        return cls(np.ascontiguousarray(U), norm_b[keep] ** 2, np.ascontiguousarray(Vh))

    def transposed(self) -> Triplets:
        """The triplets of the transposed weight."""
        return Triplets(np.ascontiguousarray(self.Vh.T), self.S, np.ascontiguousarray(self.U.T))


def residual_parts(W: NDArray[Any], triplets: Triplets, first: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """What the rows `first` and on of a weight, W (rows, columns), contribute to its residual.

    Returns
    -------
    tuple of arrays
        Per triplet the sum over the rows of |W v - s u|^2, (k,); and the rows' share of u^T W, (k, columns).
    """
    U = triplets.U[first : first + W.shape[0]]  # (rows, k)
    few = 0 < U.shape[1] <= _FEW
    image = np.stack([W @ v for v in triplets.Vh], axis=1) if few else W @ triplets.Vh.T  # (rows, k)
    gap = image - U * triplets.S.astype(U.dtype)
    left = np.stack([u @ W for u in np.ascontiguousarray(U.T)]) if few else U.T @ W
    return np.sum(gap.astype(np.float64) ** 2, axis=0), left


class BaseResidual:
    """How far a weight is from having the given triplets, gathered over its row blocks."""

    def __init__(self, triplets: Triplets) -> None:
        k, columns = triplets.Vh.shape
        self._triplets = triplets
        self._right = np.zeros(k)
        self._left = np.zeros((k, columns))

    def add(self, parts: tuple[NDArray[Any], NDArray[Any]]) -> None:
        """Count a block; always in the same order, so that the sum is the same for every number of threads."""
        self._right += parts[0]
        self._left += parts[1]

    @property
    def rho(self) -> float | None:
        """The largest residual over s_1: near 0 for the weight that was factored, 1 or more for an unrelated one.

        Dividing by s_1, not by s_k, keeps rank-deficient weights from looking wrong. None where every triplet is zero:
        such a module can't be checked.
        """
        if not self._triplets.S.size:
            return None
        left = np.sum((self._left - self._triplets.S[:, None] * self._triplets.Vh) ** 2, axis=1)  # (k,)
        return float(np.sqrt(max(self._right.max(), left.max())) / self._triplets.S.max())


def residual_of(W: NDArray[Any], triplets: Triplets, rows: int = 512) -> float:
    """rho of a whole weight (rows, columns), widened a few rows at a time; 0 where every triplet is zero."""
    residual = BaseResidual(triplets)
    for first in range(0, len(W), rows):
        residual.add(residual_parts(W[first : first + rows].astype(triplets.U.dtype), triplets, first))
    return residual.rho or 0.0
