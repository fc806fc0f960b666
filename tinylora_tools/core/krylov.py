"""The leading right singular vectors of a large weight: block Krylov iteration on W^T W.

Each step multiplies a block of vectors X by W and then by W^T in one pass over W, and adds it to an orthonormal basis
Q. The Gram matrix of Y = W Q, formed in float64, gives the Ritz values and vectors; Z = W^T Y gives their residuals
without another product. A cycle ends with a pass over the best vectors alone, which starts the next cycle unless they
are good enough: rounding of the early blocks, which the largest singular value dominates, then no longer reaches the
small ones, and the residuals are measured on what is returned.

C. Musco and C. Musco, "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value
Decomposition", NeurIPS 2015; G. H. Golub, F. T. Luk and M. L. Overton, "A Block Lanczos Method for Computing the
Singular Values and Corresponding Singular Vectors of a Matrix", ACM TOMS 7 (1981).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: Elements of W that are widened at a time: few enough for the caches of a core.
_BLOCK_ELEMENTS = 1 << 20

#: Bytes that a basis, with its products, may take before the iteration starts over from its best vectors.
_BASIS_BYTES = 160_000_000

#: The residual, over s_1, in units of the work dtype's rounding, at which to stop.
_TOLERANCE = 4.0

#: The residual, over s_1, that the next triplet must reach: it only serves to tell a gap.
_NEXT_TOLERANCE = 1e-3

#: Bytes that the dense route may take: the Gram matrix, its eigenvectors, and as much again to find them.
DENSE_BYTES = 420_000_000

#: Cycles after which what was reached is returned, with its residuals.
_CYCLES = 12


class WideWeight:
    """A weight as an operator, widened a few rows (or columns) at a time.

    It acts on its shorter side: as W where W is tall, as W^T where it is wide. In this module W stands for either, and
    is (long, short).
    """

    def __init__(self, W: Tensor, work: torch.dtype) -> None:
        self.transposed = W.shape[0] < W.shape[1]
        self.work, self.device = work, W.device
        self.long, self.short = max(W.shape), min(W.shape)
        self._W = W
        step = max(16, _BLOCK_ELEMENTS // self.short)
        if W.device.type != "cpu":
            step *= 64  # a GPU wants more at once, and has no cache to respect
        self._step = min(step, self.long)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive rows of W and their values, (rows, short), in the work dtype. The values' memory is reused."""
        shape = (self.short, self._step) if self.transposed else (self._step, self.short)
        buffer = None if self._W.dtype == self.work else torch.empty(shape, dtype=self.work, device=self.device)
        for first in range(0, self.long, self._step):
            part = slice(first, min(first + self._step, self.long))
            size = part.stop - first
            if self.transposed:
                block = self._W[:, part]
                yield part, (block if buffer is None else buffer[:, :size].copy_(block)).T
            else:
                block = self._W[part]
                yield part, block if buffer is None else buffer[:size].copy_(block)

    def apply(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Y = W X in the work dtype, (long, k), and Z = W^T Y in float64, (short, k), for X (short, k)."""
        X = X.to(self.work)
        Y = torch.empty(self.long, X.shape[1], dtype=self.work, device=self.device)
        Z = torch.zeros(X.shape, dtype=torch.float64, device=self.device)
        for part, block in self.blocks():
            torch.mm(block, X, out=Y[part])
            Z += block.T @ Y[part]
        return Y, Z

    def apply_transposed(self, Y: Tensor) -> Tensor:
        """W^T Y in float64, (short, k), for Y (long, k)."""
        Y = Y.to(self.work)
        Z = torch.zeros(self.short, Y.shape[1], dtype=torch.float64, device=self.device)
        for part, block in self.blocks():
            Z += block.T @ Y[part]
        return Z

    def right_vectors(self) -> Tensor:
        """All right singular vectors in float64, (short, short), by descending singular value: the dense route.

        Where the work dtype is float64, of W itself, so that small values keep their accuracy; else of its Gram matrix,
        whose rounding in float64 is far below float32's.
        """
        if self.work == torch.float64:
            W = torch.empty(self.long, self.short, dtype=torch.float64, device=self.device)
            for part, block in self.blocks():
                W[part] = block
            return torch.linalg.svd(W, full_matrices=False).Vh.T
        G = torch.zeros(self.short, self.short, dtype=torch.float64, device=self.device)
        for _, block in self.blocks():
            wide = block.to(torch.float64)
            G.addmm_(wide.T, wide)
        return torch.linalg.eigh(G).eigenvectors.flip(1)


class Basis:
    """An orthonormal basis Q of part of the short side, with Y = W Q, Z = W^T Y and the Gram matrix of Y."""

    def __init__(self) -> None:
        self._Q: list[Tensor] = []
        self._Y: list[Tensor] = []
        self._Z: list[Tensor] = []
        self._gram = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def size(self) -> int:
        return len(self._gram)

    def add(self, X: Tensor, Y: Tensor, Z: Tensor) -> None:
        """Append orthonormal columns X (short, k) and their products."""
        self._Q.append(X)
        self._Y.append(Y)
        self._Z.append(Z)
        new = Y.to(torch.float64)
        column = torch.cat([old.to(torch.float64).T @ new for old in self._Y]).cpu()  # (size + k, k)
        size, k = self.size, X.shape[1]
        gram = torch.empty(size + k, size + k, dtype=torch.float64)
        gram[:size, :size] = self._gram
        gram[:, size:] = column
        gram[size:, :] = column.T
        self._gram = gram

    def ritz(self, k: int) -> Ritz:
        """The k leading Ritz pairs of W^T W."""
        values, vectors = torch.linalg.eigh(self._gram)
        values, w = values.flip(0)[:k].clamp(min=0.0), vectors.flip(1)[:, :k].contiguous()
        w = w.to(self._Q[0].device)
        V, Z = torch.cat(self._Q, 1) @ w, torch.cat(self._Z, 1) @ w  # (short, k)
        return Ritz(values.sqrt(), V, w, torch.linalg.vector_norm(Z - V * values.to(V.device), dim=0).cpu())

    def next_block(self, noise: float) -> Tensor:
        """What W^T W makes of the last block, orthonormal to the basis.

        Directions shorter than `noise`, where Y has columns of unit length, are left out, so there may be fewer
        columns than in the last block, or none.
        """
        Q = torch.cat(self._Q, 1)
        lengths = torch.linalg.vector_norm(self._Y[-1].to(torch.float64), dim=0)
        X = self._Z[-1] / torch.where(lengths > 0.0, lengths, 1.0)
        for _ in range(2):
            X = X - Q @ (Q.T @ X)
        squares, w = torch.linalg.eigh(X.T @ X)
        keep = squares > noise**2
        if not bool(keep.any()):
            return X[:, :0]
        X = X @ (w[:, keep] / squares[keep].sqrt())
        X = X - Q @ (Q.T @ X)
        return torch.linalg.qr(X).Q


@dataclass(frozen=True, slots=True)
class Ritz:
    """Approximate singular values S (k,) and right vectors V (short, k) with the norms of W^T W v - s^2 v, (k,); w
    (size, k) are the coordinates of V in the basis."""

    S: Tensor
    V: Tensor
    w: Tensor
    norms: Tensor

    def residuals(self, zero: float) -> Tensor:
        """||W^T u - s v|| / s_1 with u = W v / s, (k,); 0 where s is at most `zero` of s_1 and u isn't W v."""
        largest = float(self.S[0])
        known = self.S > zero * largest
        return torch.where(known, self.norms / torch.where(known, self.S * largest, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class Subspace:
    """Orthonormal V (short, k) that spans the leading right singular vectors, with Y = W V (long, k) and
    Z = W^T Y (short, k), all in float64, and the passes over W that it took."""

    V: Tensor
    Y: Tensor
    Z: Tensor
    passes: int


def zero_level(work: torch.dtype) -> float:
    """The share of s_1 below which singular values count as zero: in float32 its rounding hides them; in float64 W^T W,
    in which they stand squared, does."""
    return 3e-8 if work == torch.float64 else 32.0 * torch.finfo(work).eps


def leading_subspace(W: WideWeight, r: int, X: Tensor) -> Subspace | int:
    """The r leading right singular vectors and a few more, from the start X (short, k), orthonormal and k > r.

    Returns the passes that were made, instead, as soon as the dense route (`WideWeight.right_vectors`) is
    expected to be faster.
    """
    eps = torch.finfo(W.work).eps
    width = X.shape[1]
    limit = min(W.short, max(4 * width, _BASIS_BYTES // (W.long * W.work.itemsize + 16 * W.short)))
    passes, best, before = 0, math.inf, torch.zeros(r + 1, dtype=torch.float64)
    for cycle in range(_CYCLES):
        basis = Basis()
        distances: list[float] = []
        while True:
            Y, Z = W.apply(X)
            passes += 1
            basis.add(X, Y, Z)
            ritz = basis.ritz(r + 1)
            distances.append(_distance(ritz, before, r, W.work, dominated=cycle == 0))
            before = ritz.S
            if cycle > 0 and len(distances) == 1:  # these vectors' own products, just formed
                if distances[0] <= 1.0 or distances[0] > 0.5 * best or cycle == _CYCLES - 1:
                    return Subspace(X, Y.to(torch.float64), Z, passes)
                best = distances[0]
            stuck = len(distances) > 5 and distances[-1] > 0.9 * distances[-6]
            if distances[-1] <= 1.0 or stuck or basis.size + width > limit:
                break
            if _give_up(W, basis.size, width, distances):
                return passes
            X = basis.next_block(_TOLERANCE * eps * float(ritz.S[0]))
            if not X.shape[1]:
                break
        X = torch.linalg.qr(basis.ritz(min(width, basis.size)).V).Q
    raise AssertionError("the last cycle returns")


def _distance(ritz: Ritz, before: Tensor, r: int, work: torch.dtype, *, dominated: bool) -> float:
    """The largest residual over what it should be; at most 1 when all r triplets are good and the next is good enough.

    In a basis whose first block is `dominated` by s_1, small triplets can't be seen to be better than the rounding of
    that block allows. Values that count as zero are good once they no longer change from those `before`.
    """
    S, zero = ritz.S, zero_level(work)
    if S[0] == 0.0:
        return 0.0
    allowed = torch.full_like(S, _TOLERANCE * torch.finfo(work).eps)
    allowed[r:] = _NEXT_TOLERANCE
    if dominated:
        allowed *= (0.1 * S[0] / S.clamp(min=zero * float(S[0]))).clamp(min=1.0)
    found = torch.where(S > zero * S[0], ritz.residuals(zero), (S - before).abs() / S[0])
    return float((found / allowed).max())


def dense_cost(W: WideWeight) -> float:
    """Seconds that the dense route takes; infinite where it doesn't fit the memory promised.

    The constants here and in `_step_cost` were measured on two cores of a server (benchmarks/factors.py prints them);
    only their ratios matter.
    """
    if W.work == torch.float64:
        fits = 3 * 8 * W.long * W.short <= DENSE_BYTES
        return 3e-10 * W.long * W.short**2 + 2e-4 if fits else math.inf
    fits = 4 * 8 * W.short**2 <= DENSE_BYTES
    return 2.5e-11 * W.long * W.short**2 + 1.2e-10 * W.short**3 + 1e-6 * W.short + 2e-4 if fits else math.inf


def _step_cost(W: WideWeight, size: int, block: int) -> float:
    """Seconds of a step that grows a basis of `size`: two products, orthogonalisation, Ritz values."""
    products = 5e-11 * W.long * W.short * block + 1e-10 * (W.short + W.long) * size * block
    return products * (W.work.itemsize // 4) + 2e-10 * size**3 + 8e-4


def starting_cost(W: WideWeight, block: int) -> float:
    """Seconds of the fewest steps that an iteration may take."""
    return sum(_step_cost(W, step * block, block) for step in range(4))


def _give_up(W: WideWeight, size: int, block: int, distances: list[float]) -> bool:
    """Whether the dense route looks faster than going on. Convergence speeds up as a basis grows, so this isn't asked
    before a quarter of the dense route's time is spent; then residuals are taken to fall as in the last steps."""
    dense = dense_cost(W)
    spent = sum(_step_cost(W, step * block, block) for step in range(len(distances)))
    if spent < 0.25 * dense:
        return False
    back = min(3, len(distances) - 1)
    rate = math.log(distances[-1 - back] / distances[-1]) / back if back and distances[-1] > 0.0 else 0.0
    steps = min(60, math.ceil(math.log(max(distances[-1], 1.0)) / rate)) if rate > 0.0 else 60
    return sum(_step_cost(W, size + step * block, block) for step in range(steps + 1)) > dense
