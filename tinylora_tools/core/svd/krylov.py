"""The leading right singular vectors of a large weight: block Krylov iteration on W^T W.

Each step multiplies a block of vectors X by W and then by W^T in one pass over W, and adds it to an orthonormal basis
Q. The Gram matrix of W Q gives, in float64, the Ritz values and vectors; Z = W^T W Q gives their residuals
without another product. Where the largest singular value dwarfs others, its rounding in the first block blurs them:
then a second cycle starts from the best vectors of the first, each of which is a column of its own.

C. Musco and C. Musco, "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value
Decomposition", NeurIPS 2015; G. H. Golub, F. T. Luk and M. L. Overton, "A Block Lanczos Method for Computing the
Singular Values and Corresponding Singular Vectors of a Matrix", ACM TOMS 7 (1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .wide_weight import WideWeight, orthonormal

#: Bytes that a basis, with its products, may take before the iteration starts over from its best vectors.
_BASIS_BYTES = 160_000_000

#: The residual, over s_1, in units of the work dtype's rounding, at which to stop: above what rounding alone leaves.
_TOLERANCE = {torch.float32: 4.0, torch.float64: 16.0}

#: The residual, over s_1, that the next triplet must reach: it only serves to tell a gap.
_NEXT_TOLERANCE = 1e-3

#: Bytes that the dense route may take: the Gram matrix, in whose place its eigenvectors come, and twice as much to find
#: them.
DENSE_BYTES = 320_000_000

#: Cycles after which what was reached is returned, with its residuals.
_CYCLES = 12

#: Cycles in a row that began no nearer than one before: rounding lets no more be reached. Where values lie close, one
#: alone may be so before the next gains much.
_IDLE_CYCLES = 2

#: The least vectors that are returned, if there are so many: their values show how a spectrum begins.
SHOWN = 8

#: How long what is new of a direction must be, over what it is said to miss.
_NEW = 1e-5


class Basis:
    """An orthonormal basis Q (short, size) of part of the short side, with Y = W Q, Z = W^T Y, and the Gram matrix of
    Y."""

    def __init__(self, short: int, limit: int, device: torch.device) -> None:
        # Vectors are rows here: of a few vectors products run several times faster so.
        self._all_Q = torch.empty(limit, short, dtype=torch.float64, device=device)
        self._all_Z = torch.empty(limit, short, dtype=torch.float64, device=device)
        self._Y: list[Tensor] = []
        self._gram = torch.empty(limit, limit, dtype=torch.float64)
        self.size = 0

    @property
    def _Q(self) -> Tensor:
        return self._all_Q[: self.size]

    @property
    def _Z(self) -> Tensor:
        return self._all_Z[: self.size]

    def add(self, X: Tensor, Y: Tensor, Z: Tensor) -> None:
        """Append orthonormal columns X (short, k), with Y = W X (long, k) and Z = W^T Y (short, k)."""
        new = slice(self.size, self.size + X.shape[1])
        self.size = new.stop
        self._all_Q[new] = X.T
        self._all_Z[new] = Z.T
        self._Y.append(Y)
        # Of two columns the later is the less dominated by s_1: its product is the more accurate.
        column = _inner(self._Q, Z).cpu()
        inner = torch.triu(column[new])
        column[new] = inner + torch.triu(inner, 1).T
        self._gram[: new.stop, new] = column
        self._gram[new, : new.stop] = column.T

    def ritz(self, k: int) -> Ritz:
        """The k leading Ritz pairs of W^T W."""
        values, vectors = torch.linalg.eigh(self._gram[: self.size, : self.size])
        S, vectors = values.flip(0)[:k].clamp(min=0.0).sqrt(), vectors.flip(1)
        w = vectors[:, :k].to(self._Q.device)
        gaps = _combined(self._Z, w) - _combined(self._Q, w) * S.to(w.device) ** 2
        return Ritz(S, gaps, torch.linalg.vector_norm(gaps, dim=0).cpu(), vectors)

    def subspace(self, ritz: Ritz, k: int, passes: int, *, whole: bool = False) -> Subspace:
        """The k leading Ritz vectors with their products; or all of them, of which k have their Y."""
        w, every = (ritz.w[:, :n].to(self._Q.device) for n in (k, self.size if whole else k))
        Y, first = torch.zeros(k, len(self._Y[0]), dtype=torch.float64, device=w.device), 0
        for block in self._Y:
            Y += w[first : first + block.shape[1]].T @ block.T.to(torch.float64)
            first += block.shape[1]
        return Subspace(_combined(self._Q, every), Y.T, _combined(self._Z, every), passes)

    def advanced(self, ritz: Ritz, k: int) -> Tensor:
        """The k leading Ritz vectors after one more multiplication by W^T W, which Z holds; orthonormal, (short, k)."""
        w = ritz.w[:, :k].to(self._Q.device)
        image = _combined(self._Z, w)
        lengths = torch.linalg.vector_norm(image, dim=0)
        if not bool((lengths > 0.0).all()):
            image, lengths = _combined(self._Q, w), torch.ones_like(lengths)
        return orthonormal(image / lengths)

    def next_block(self, ritz: Ritz, noise: float, zero: float) -> Tensor:
        """What the Ritz vectors miss, orthonormal to the basis: (short, k), or fewer columns, or none.

        Ritz vectors whose residuals over s_1 are below `noise` have none, nor have others what these have already.
        Values below `zero` of s_1 count as that.
        """
        S = ritz.S
        missing = ritz.norms > noise * float(S[0]) * S.clamp(min=zero * float(S[0]))
        X = ritz.gaps[:, missing.to(ritz.gaps.device)] / ritz.norms[missing].to(ritz.gaps.device)
        X = self._without(X)
        squares, w = torch.linalg.eigh(X.T @ X)
        keep = squares > _NEW**2
        if not bool(keep.any()):
            return X[:, :0]
        return orthonormal(self._without(X @ (w[:, keep] / squares[keep].sqrt())))

    def _without(self, X: Tensor) -> Tensor:
        """What of X (short, k) is orthogonal to the basis."""
        return X - _combined(self._Q, _inner(self._Q, X))


def _inner(rows: Tensor, X: Tensor) -> Tensor:
    """The dot products of rows (n, length) and the columns of X (length, k), (n, k)."""
    return (X.T @ rows.T).T


def _combined(rows: Tensor, w: Tensor) -> Tensor:
    """The rows' sums, weighted by each of w (n, k), as columns: (length, k)."""
    return (w.T @ rows).T


@dataclass(frozen=True, slots=True)
class Ritz:
    """The k leading singular values S, approximately, with W^T W v - s^2 v, `gaps` (short, k), and their norms (k,);
    w (size, size) are the coordinates of all vectors v in the basis."""

    S: Tensor
    gaps: Tensor
    norms: Tensor
    w: Tensor

    def residuals(self, zero: float) -> Tensor:
        """||W^T u - s v|| / s_1 with u = W v / s, (k,); 0 where s is at most `zero` of s_1 and u isn't W v."""
        largest = float(self.S[0])
        known = zero * largest < self.S
        return torch.where(known, self.norms / torch.where(known, self.S * largest, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class Subspace:
    """Orthonormal V (short, n) that spans the leading right singular vectors, with Y = W V (long, k) of the k first and
    Z = W^T W V (short, n), all in float64, and the passes over W that it took."""

    V: Tensor
    Y: Tensor
    Z: Tensor
    passes: int


def zero_level(work: torch.dtype) -> float:
    """The share of s_1 below which singular values count as zero: in float32 its rounding hides them; in float64 W^T W,
    in which they stand squared, does."""
    return 3e-8 if work == torch.float64 else 32.0 * torch.finfo(work).eps


def leading_subspace(
    W: WideWeight, r: int, start: Tensor, *, block: int | None = None, whole: bool = False
) -> Subspace | int:
    """The r leading right singular vectors and a few more, from a start (short, width) whose columns, more than r, are
    orthonormal: random, or near (`WideWeight.aim`).

    As many vectors as the start has are returned, or `SHOWN`, or the `whole` basis. The blocks after it go on from as
    many of the leading Ritz vectors, or from `block`, which is more than r.

    Returns the passes that were made, instead, as soon as the dense route (`WideWeight.right_vectors`) is expected to
    be faster.
    """
    noise, width = _TOLERANCE[W.work] * torch.finfo(W.work).eps, start.shape[1]
    limit = min(W.short, max(4 * width, _BASIS_BYTES // (W.long * W.work.itemsize + 16 * W.short)), 512)
    block = block or width
    passes, best, idle, before = 0, math.inf, 0, torch.zeros(block, dtype=torch.float64)
    X = start
    for cycle in range(_CYCLES):
        basis = Basis(W.short, limit, W.device)
        distances: list[float] = []
        spent = 0.0
        while True:
            Y, Z = W.apply(X)
            passes, spent = passes + 1, spent + _step_cost(W, basis.size, X.shape[1])
            basis.add(X, Y, Z)
            ritz = basis.ritz(block)
            missing = _missing(ritz, before, W.work)[: r + 1]
            before = ritz.S
            # What rounding of a first block that s_1 dominates leaves of small triplets: 1 where it doesn't show.
            S = ritz.S[: r + 1]
            blur = (0.1 * S[0] / S.clamp(min=zero_level(W.work) * float(S[0]))).clamp(min=1.0)
            blurred = cycle == 0 and bool((blur[:r] > 1.0).any())
            allowed = torch.full_like(missing, noise)
            allowed[r:] = _NEXT_TOLERANCE
            distances.append(float((missing / allowed).max()))
            if cycle > 0 and len(distances) == 1:
                idle = idle + 1 if distances[0] > 0.9 * best else 0
                best = min(best, distances[0])
            if (distances[-1] <= 1.0 and not blurred) or idle == _IDLE_CYCLES or cycle == _CYCLES - 1:
                return basis.subspace(ritz, min(max(width, SHOWN), basis.size), passes, whole=whole)
            stuck = len(distances) > 5 and distances[-1] > 0.9 * distances[-6]
            good = blurred and float((missing / (allowed * blur)).max()) <= 1.0
            if good or stuck or basis.size + width > limit:
                break
            X = basis.next_block(ritz, noise, zero_level(W.work))
            if not X.shape[1]:
                break
            if _give_up(W, spent, basis.size, X.shape[1], distances):
                return passes
        X = basis.advanced(ritz, min(width, basis.size))
    raise AssertionError("the last cycle returns")


def _missing(ritz: Ritz, before: Tensor, work: torch.dtype) -> Tensor:
    """Residuals over s_1; for values that count as zero, how far they moved from those `before`."""
    S, zero = ritz.S, zero_level(work)
    if S[0] == 0.0:
        return torch.zeros_like(S)
    return torch.where(zero * S[0] < S, ritz.residuals(zero), (S - before).abs() / S[0])


def dense_cost(W: WideWeight) -> float:
    """Seconds that the dense route takes; infinite where it doesn't fit the memory promised.

    The constants here and in `_step_cost` were measured on a core of a server; only their ratios matter.
    """
    if W.work == torch.float64:
        fits = 3 * 8 * W.long * W.short <= DENSE_BYTES
        return 3e-10 * W.long * W.short**2 + 2e-4 if fits else math.inf
    fits = 3 * 8 * W.short**2 <= DENSE_BYTES
    return 3.2e-11 * W.long * W.short**2 + 1.5e-10 * W.short**3 + 1.3e-6 * W.short + 2e-4 if fits else math.inf


def _step_cost(W: WideWeight, size: int, block: int) -> float:
    """Seconds of a step that grows a basis of `size`: two products, orthogonalisation, Ritz values."""
    products = (2.6e-10 + 4e-11 * block) * W.long * W.short * (W.work.itemsize // 4)
    return products + 2e-8 * W.short * size + 2e-10 * size**3 + 2e-4


def starting_cost(W: WideWeight, width: int, block: int) -> float:
    """Seconds of the fewest steps that an iteration may take, in a block of `width` columns and more of `block`."""
    return _step_cost(W, 0, width) + sum(_step_cost(W, width + step * block, block) for step in range(4))


def _give_up(W: WideWeight, spent: float, size: int, block: int, distances: list[float]) -> bool:
    """Whether the dense route looks faster than going on. Convergence speeds up as a basis grows, so this isn't asked
    before a quarter of the dense route's time is spent; then residuals are taken to fall as in the last steps."""
    dense = dense_cost(W)
    if spent < 0.25 * dense:
        return False
    back = min(3, len(distances) - 1)
    rate = math.log(distances[-1 - back] / distances[-1]) / back if back and distances[-1] > 0.0 else 0.0
    steps = min(60, math.ceil(math.log(max(distances[-1], 1.0)) / rate)) if rate > 0.0 else 60
    return sum(_step_cost(W, size + step * block, block) for step in range(steps + 1)) > dense
