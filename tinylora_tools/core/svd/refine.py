"""Leading right singular vectors to float64's accuracy, most products being made in float32.

Vectors V that float32 found leave a residual, which is formed in float64: R = W^T W V - V Theta. The correction D of V
solves (Theta - W^T W) D = R among the vectors that are orthogonal to V, and as it is small, it may be a relative 1e-7
off: float32 will do for it. It is looked for in a basis that begins with what float32 found beside V, so that what lies
near V is known already, and grows by what the solution still misses. Each cycle takes V about as much nearer as float32
can tell numbers apart.

G. H. Golub and C. F. Van Loan, Matrix Computations, 4th edition, section 8.7 (Jacobi-Davidson, of which this is the
block form with a solution in a subspace); J. H. Wilkinson's iterative refinement in two precisions. Letters as in
`krylov`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .krylov import Subspace
from .wide_weight import WideWeight, orthonormal

#: The residual, over s_1, at which to stop: above what rounding alone leaves, and below half of what factors that every
#: machine computes alike may be off (`canonical`), since two machines may be off to either side.
_TOLERANCE = 2e-14

#: What is left of a correction's equation, over its right side, at which it is solved, and the steps that may take.
_SOLVED, _STEPS = 3e-8, 12

#: Cycles, each of which has to come so much nearer: else float32 is of no help here.
_CYCLES, _GAIN = 4, 1e-2


@dataclass(slots=True)
class _Known:
    """Orthonormal columns B (short, size), orthogonal to V, with Z = W^T W B as float32 gives it."""

    B: Tensor
    Z: Tensor

    def off(self, V: Tensor, Z: Tensor) -> None:
        """Make B orthogonal to V (short, k), whose image is Z."""
        inner = V.T @ self.B
        self.B, self.Z = self.B - V @ inner, self.Z - Z @ inner

    def add(self, X: Tensor, Z: Tensor) -> None:
        self.B, self.Z = torch.cat([self.B, X], 1), torch.cat([self.Z, Z], 1)


def refined(wide: WideWeight, narrow: WideWeight, rough: Subspace, r: int) -> Subspace | None:
    """The r leading vectors and the next, if there is one, from those that float32 found; None where this doesn't lead
    there.

    Parameters
    ----------
    wide, narrow : WideWeight
        The same weight, in float64 and in float32.
    rough : Subspace
        Of more than r vectors, of the weight in float32.
    """
    k = min(r + 1, rough.V.shape[1])
    V, before, passes = rough.V[:, :k], float("inf"), rough.passes
    known = _Known(rough.V[:, k:], rough.Z[:, k:])
    for _ in range(_CYCLES):
        Y, Z = wide.apply(V)
        passes += 1
        squares, w = torch.linalg.eigh(Y.T @ Y)
        w, S = w.flip(1), squares.flip(0).clamp(min=0.0).sqrt()
        V, Y, Z = V @ w, Y @ w, Z @ w
        if not float(S[r - 1]) > 0.0:
            return None
        R = Z[:, :r] - V[:, :r] * S[:r] ** 2
        left = float((torch.linalg.vector_norm(R, dim=0) / (S[:r] * S[0])).max())
        if left <= _TOLERANCE:
            return Subspace(V, Y, Z, passes)
        if not left <= _GAIN * before:
            return None
        before = left
        known.off(V, Z)
        D, steps = _correction(narrow, known, V, S[:r] ** 2, R)
        passes += steps
        V = orthonormal(torch.cat([V[:, :r] + D, V[:, r:]], 1))
    return None


def _correction(narrow: WideWeight, known: _Known, V: Tensor, theta: Tensor, R: Tensor) -> tuple[Tensor, int]:
    """D (short, r), about, with (theta - W^T W) D = R and V^T D = 0, and the passes over W that it took."""
    lengths = torch.linalg.vector_norm(R, dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    right = R / lengths
    right = right - V @ (V.T @ right)
    D, missing = torch.zeros_like(right), right
    for step in range(_STEPS):
        if known.B.shape[1]:
            T, c = known.B.T @ known.Z, known.B.T @ right
            values, vectors = torch.linalg.eigh(0.5 * (T + T.T))
            y = vectors @ ((vectors.T @ c) / _apart(theta - values[:, None]))
            D = known.B @ y
            missing = right - D * theta + known.Z @ y
            missing = missing - V @ (V.T @ missing)
        if float(torch.linalg.vector_norm(missing, dim=0).max()) <= _SOLVED or step == _STEPS - 1:
            return D * lengths, step
        X = missing - known.B @ (known.B.T @ missing)
        X = orthonormal(X / torch.linalg.vector_norm(X, dim=0).clamp(min=torch.finfo(torch.float64).tiny))
        X = X - known.B @ (known.B.T @ X) - V @ (V.T @ X)
        X = orthonormal(X)
        known.add(X, narrow.apply(X)[1])
    raise AssertionError("the last step returns")


def _apart(x: Tensor) -> Tensor:
    """Without zeros to divide by."""
    return torch.where(x == 0.0, torch.finfo(torch.float64).eps, x)
