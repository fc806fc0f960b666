"""TinyLoRA's update as arithmetic on arrays.

The paper's letters (arXiv:2602.04118, section 3), as PEFT uses them:

- W (out, in), the frozen weight; U (out, r), S (r,), Vh (r, in), its top r singular triplets
- A = sqrt(S) Vh (r, in) and B = U sqrt(S) (out, r), frozen
- P (u, r, r), fixed random matrices; v (u,), the trained vector
- R = sum_i v_i P_i (r, r); delta W = B R A (out, in)

Precision: what is tiny (R, B R) is formed in float64. What is as large as W is a fixed sequence of IEEE operations, one
product and one sum for each rank, then the sum with W and one rounding; never a library's matrix product, whose order of
summation depends on blocking, threads and CPU. So the merged bytes are a function of the inputs alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def projected(v: Array, P: Array) -> Array:
    """R = sum_i v_i P_i in float64: v (u,), P (u, r, r), result (r, r)."""
    R: Array = np.einsum("i,ijk->jk", v.astype(np.float64), P.astype(np.float64))  # (r, r)
    return R


def left_factor(B: Array, R: Array, scale: float = 1.0) -> Array:
    """scale B R in float64: B (out, r), R (r, r), result (out, r); delta W = left_factor @ A."""
    product: Array = np.zeros((B.shape[0], R.shape[1]))
    wide = B.astype(np.float64)
    for k in range(R.shape[0]):  # not `@`: a fixed order of summation, the same on every machine
        product += wide[:, k : k + 1] * (R[k] * scale)
    return product


def squared_norm(left: Array, right: Array) -> float:
    """||left @ right||_F^2 from the small Gram matrices: left (m, k), right (k, n)."""
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    return float(max(0.0, np.sum((wide_left.T @ wide_left) * (wide_right @ wide_right.T))))


def training_dtype(*arrays: Array) -> str:
    """The dtype that a module's base weight had when PEFT made these factors: "bfloat16", "float16" or "float32".

    PEFT rounds its factors to the weight's dtype before it widens them, so values that bfloat16 holds exactly came from
    bfloat16. It is asked first: small bfloat16 values are mostly float16 values too.
    """
    import ml_dtypes

    for name, dtype in (("bfloat16", np.dtype(ml_dtypes.bfloat16)), ("float16", np.dtype(np.float16))):
        with np.errstate(over="ignore"):
            if all(np.array_equal(a, a.astype(dtype).astype(a.dtype)) for a in arrays):
                return name
    return "float32"


@dataclass(frozen=True, slots=True)
class Triplets:
    """Factors to check a weight against: unit singular vectors and values, in float32, zero triplets left out.

    u (rows, k), s (k,), vh (k, columns), in the orientation in which the weight is stored.
    """

    u: Array
    s: Array
    vh: Array

    @classmethod
    def from_factors(cls, A: Array, B: Array) -> Triplets:
        """From A (r, in) and B (out, r): the squared column norms of B are the singular values."""
        norm_b = np.sqrt(np.sum(B.astype(np.float64) ** 2, axis=0))  # (r,)
        norm_a = np.sqrt(np.sum(A.astype(np.float64) ** 2, axis=1))  # (r,)
        keep = (norm_b > 0) & (norm_a > 0)
        u = (B[:, keep] / norm_b[keep]).astype(np.float32)
        vh = (A[keep] / norm_a[keep, None]).astype(np.float32)
        return cls(np.ascontiguousarray(u), norm_b[keep] ** 2, np.ascontiguousarray(vh))

    def transposed(self) -> Triplets:
        """The triplets of the transposed weight."""
        return Triplets(np.ascontiguousarray(self.vh.T), self.s, np.ascontiguousarray(self.u.T))


@dataclass(slots=True)
class BaseResidual:
    """How far a weight is from having the given triplets, gathered over its row blocks.

    For singular triplets W v = s u and W^T u = s v. `rho` is the largest norm of either residual over s_1: 0 for the
    weight that was factored, 1 or more for an unrelated one. Dividing by s_1, not by s_k, keeps rank-deficient weights
    from looking wrong.
    """

    triplets: Triplets
    right: Array  # (k,): sum over rows of |W v - s u|^2
    left: Array  # (k, columns): sum over rows of u^T W

    @classmethod
    def start(cls, triplets: Triplets) -> BaseResidual:
        k, columns = triplets.vh.shape
        return cls(triplets, np.zeros(k), np.zeros((k, columns)))

    def parts(self, W: Array, first: int) -> tuple[Array, Array]:
        """What the float32 rows `first` and on of the weight, W (rows, columns), add to `right` and to `left`."""
        u = self.triplets.u[first : first + W.shape[0]]  # (rows, k)
        gap = W @ self.triplets.vh.T - u * self.triplets.s.astype(np.float32)  # (rows, k)
        return np.sum(gap.astype(np.float64) ** 2, axis=0), u.T @ W

    def add(self, parts: tuple[Array, Array]) -> None:
        self.right += parts[0]
        self.left += parts[1]

    @property
    def rho(self) -> float | None:
        """None where every triplet is zero: such a module can't be checked."""
        if not self.triplets.s.size:
            return None
        left = np.sum((self.left - self.triplets.s[:, None] * self.triplets.vh) ** 2, axis=1)  # (k,)
        return float(np.sqrt(max(self.right.max(), left.max())) / self.triplets.s.max())


class BlockAdder:
    """W + left @ right over blocks of rows, in buffers that are reused.

    16-bit results are summed in float32, wider ones in float64; both are rounded once. Per element the error is at most
    1/2 ulp + (k + 2) 2^-24 (|W| + sum_k |left| |right|) for 16-bit results, and 1 ulp for float32.

    Parameters
    ----------
    elements : int
        The most elements a block has.
    work_dtype : numpy dtype
        float32 or float64, from `work_dtype`.
    """

    def __init__(self, elements: int, work_dtype: np.dtype[Any]) -> None:
        self._weight, self._delta, self._term = (np.empty(elements, work_dtype) for _ in range(3))

    def widen(self, W: Array) -> Array:
        """W (rows, columns) in the work dtype; valid until the next block."""
        weight = self._weight[: W.size].reshape(W.shape)
        np.copyto(weight, W)
        return weight

    def add(self, weight: Array, left: Array, right: Array, out: Array) -> float:
        """Write weight + left @ right, rounded to its dtype, into `out`.

        Parameters
        ----------
        weight : (rows, columns), as `widen` returned it
        left : (rows, k), right : (k, columns), in the work dtype
        out : (rows, columns), in the dtype of the result

        Returns
        -------
        float
            The sum of squares of (out - W) - delta: what rounding did to the update. Not finite if a result isn't.
        """
        delta = self._delta[: weight.size].reshape(weight.shape)
        term = self._term[: weight.size].reshape(weight.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(left[:, :1], right[:1], out=delta)
            for k in range(1, left.shape[1]):
                np.multiply(left[:, k : k + 1], right[k : k + 1], out=term)
                np.add(delta, term, out=delta)
            np.add(weight, delta, out=term)
            np.copyto(out, term, casting="unsafe")  # the one rounding
            np.copyto(term, out)
            np.subtract(term, weight, out=term)
            np.subtract(term, delta, out=term)
            flat = term.reshape(-1)
            return float(np.vdot(flat, flat))


def work_dtype(result: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that a sum for `result` is formed in: float32 for 16-bit results, float64 for wider ones."""
    return np.dtype(np.float32 if result.itemsize <= 2 else np.float64)
