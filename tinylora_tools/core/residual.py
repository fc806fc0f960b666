"""Does a weight have these singular triplets? A check without a decomposition.

For singular triplets W v = s u and W^T u = s v: two thin products tell whether an adapter's factors belong to a weight.
Letters as in `lowrank`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .lowrank import Array


@dataclass(frozen=True, slots=True)
class Triplets:
    """Unit singular vectors and values to check a weight against; zero triplets are left out.

    U (rows, k), S (k,), Vh (k, columns), in the orientation in which the weight is stored.
    """

    U: Array
    S: Array
    Vh: Array

    @classmethod
    def from_factors(cls, A: Array, B: Array, dtype: np.dtype[Any]) -> Triplets:
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


def residual_parts(W: Array, triplets: Triplets, first: int) -> tuple[Array, Array]:
    """What the rows `first` and on of a weight, W (rows, columns), contribute to its residual.

    Returns
    -------
    tuple of arrays
        Per triplet the sum over the rows of |W v - s u|^2, (k,); and the rows' share of u^T W, (k, columns).
    """
    U = triplets.U[first : first + W.shape[0]]  # (rows, k)
    gap = W @ triplets.Vh.T - U * triplets.S.astype(U.dtype)  # (rows, k)
    return np.sum(gap.astype(np.float64) ** 2, axis=0), U.T @ W


class BaseResidual:
    """How far a weight is from having the given triplets, gathered over its row blocks."""

    def __init__(self, triplets: Triplets) -> None:
        k, columns = triplets.Vh.shape
        self._triplets = triplets
        self._right = np.zeros(k)
        self._left = np.zeros((k, columns))

    def add(self, parts: tuple[Array, Array]) -> None:
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


def residual_of(W: Array, triplets: Triplets, rows: int = 512) -> float:
    """rho of a whole weight (rows, columns), widened a few rows at a time; 0 where every triplet is zero."""
    residual = BaseResidual(triplets)
    for first in range(0, len(W), rows):
        residual.add(residual_parts(W[first : first + rows].astype(triplets.U.dtype), triplets, first))
    return residual.rho or 0.0
