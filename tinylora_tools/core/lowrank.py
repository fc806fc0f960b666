"""TinyLoRA's update as arithmetic on arrays.

The paper's letters (arXiv:2602.04118, section 3), as PEFT uses them:

- W (out, in), the frozen weight; U (out, r), S (r,), Vh (r, in), its top r singular triplets
- A = sqrt(S) Vh (r, in) and B = U sqrt(S) (out, r), frozen
- P (u, r, r), fixed random matrices; v (u,), the trained vector
- R = sum_i v_i P_i (r, r); delta W = B R A (out, in)

Precision: what is tiny (R, B R) is formed in float64. What is as large as W is a fixed sequence of IEEE operations: a
product for each rank, their sum, its sum with W, and one rounding; never a library's matrix product, whose order of
summation depends on blocking, threads and CPU. So the merged bytes are a function of the inputs alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def projected(v: NDArray[Any], P: NDArray[Any]) -> NDArray[Any]:
    """R = sum_i v_i P_i in float64, one after the other: v (u,), P (u, r, r), result (r, r)."""
    terms = np.multiply(P.reshape(len(v), -1).T, v.astype(np.float64), order="C")  # (r r, u)
    # Not einsum: it sums a single column in an order that its build chose, and fuses product and sum on Arm.
    R: NDArray[Any] = np.add.accumulate(terms, axis=1, out=terms)[:, -1].reshape(P.shape[1:])  # (r, r)
    return R


def left_factor(B: NDArray[Any], R: NDArray[Any], scale: float = 1.0) -> NDArray[Any]:
    """scale B R in float64: B (out, r), R (r, r), result (out, r); delta W = left_factor @ A."""
    product: NDArray[Any] = np.zeros((B.shape[0], R.shape[1]))
    wide = B.astype(np.float64)
    for k in range(R.shape[0]):  # not `@`: a fixed order of summation, the same on every machine
        product += wide[:, k : k + 1] * (R[k] * scale)
    return product


def squared_norm(left: NDArray[Any], right: NDArray[Any]) -> float:
    """||left @ right||_F^2 from the small Gram matrices: left (m, k), right (k, n)."""
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    return float(max(0.0, np.sum((wide_left.T @ wide_left) * (wide_right @ wide_right.T))))


def training_dtype(*arrays: NDArray[Any]) -> str:
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
