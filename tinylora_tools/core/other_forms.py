"""Updates of other forms than B R A, in that form: letters as in `lowrank`.

The paper's U S R Vh and PEFT's B R' A with B = U sqrt(S) and A = sqrt(S) Vh are the same map for
R' = sqrt(S) R / sqrt(S), that is for P'_i = diag(sqrt S) P_i diag(1 / sqrt S).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray


def evenly(
    left: NDArray[Any], right: NDArray[Any], P: NDArray[Any], scale: float = 1.0
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A (r, in), B (out, r) and P' (u, r, r) with B (sum v_i P'_i) A = scale left (sum v_i P_i) right for every v.

    `left` (out, r) is U S and `right` (r, in) is Vh; the columns of `left` tell S. Formed in float64, rounded once to
    float32. Where S is zero, A keeps the row of Vh: the update may reach it, while B is zero there.
    """
    wide = left.astype(np.float64)
    root = np.sqrt(np.sqrt(np.sum(wide**2, axis=0)))  # (r,)
    root = np.where(root > 0.0, root, 1.0)
    A = right.astype(np.float64) * root[:, None]
    B = wide / root
    even = scale * root[:, None] * P.astype(np.float64) / root
    return A.astype(np.float32), B.astype(np.float32), even.astype(np.float32)


def rooted(U: NDArray[Any], S: NDArray[Any], Vh: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """sqrt(S) Vh (r, in) and U sqrt(S) (out, r), the root and each product rounded to the dtype of the factors."""
    root = np.sqrt(S.astype(np.float32)).astype(S.dtype).astype(np.float32)
    A = (root[:, None] * Vh.astype(np.float32)).astype(Vh.dtype)
    B = (U.astype(np.float32) * root).astype(U.dtype)
    return A.astype(np.float32), B.astype(np.float32)


def best_signs(observed: NDArray[Any], R: NDArray[Any]) -> tuple[NDArray[Any], float, float]:
    """The signs d (r,) for which diag(d) R diag(d) comes nearest to an observed matrix (r, r).

    A decomposition leaves the sign of each pair u_k, v_k open, and with it R. d and -d are the same.

    Returns
    -------
    tuple
        d; how far it is off, over the norm of what was observed; and by how many standard deviations of what is left
        over, taken for noise of the same size in every entry, the next best choice fits worse. Choices that change R by
        less than a thousandth don't count.
    """
    r, size = len(R), float(np.linalg.norm(observed))
    if size == 0.0:
        return np.ones(r), float("inf") if np.any(R) else 0.0, float("inf")
    choices = np.array(list(product((1.0, -1.0), repeat=r - 1))).reshape(2 ** (r - 1), r - 1)
    d = np.concatenate([np.ones((len(choices), 1)), choices], axis=1)
    signed = d[:, :, None] * R * d[:, None, :]
    off = np.linalg.norm(observed - signed, axis=(1, 2))
    best = int(np.argmin(off))
    apart = np.linalg.norm(signed - signed[best], axis=(1, 2))
    other = apart > 1e-3 * np.linalg.norm(R)
    noise = max(float(off[best]) / r, 1e-12 * size)
    sure = (off[other] ** 2 - off[best] ** 2) / (2.0 * noise * apart[other])
    return d[best], float(off[best]) / size, float(sure.min(initial=np.inf))
