"""The leading singular triplets of a weight, with a certificate, and what PEFT makes of them.

W (out, in) is a weight, U (out, r), S (r,) and Vh (r, in) its r largest singular triplets, W ~ U diag(S) Vh. PEFT's
factors are A = sqrt(S) Vh (r, in) and B = U sqrt(S) (out, r) (arXiv:2602.04118, section 4;
peft/tuners/tinylora/layer.py).

A full decomposition of a weight of 18944 x 3584 takes tens of seconds; r is 1 to 16. So large weights go through
`krylov`, and small or flat ones, where that is faster, through the eigenvectors of W^T W in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FormatError
from ..torch_arrays import tensor_of
from . import krylov
from .refine import refined
from .wide_weight import WideWeight, orthonormal

#: Where the random start of the iteration comes from.
DEFAULT_SEED = 0

#: Up to so many entries float64 costs no time that anyone would notice.
_SMALL = 1 << 16

#: A vector is taken to be determined by W if rounding turns it by less than this (as a sine).
_TURN = 0.01

Method = Literal["krylov", "dense"]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """How good triplets are, measured on the vectors that are returned.

    Attributes
    ----------
    residuals : tuple of float
        Per triplet max(||W v - s u||, ||W^T u - s v||) / s_1; 0 for a zero weight.
    gaps : tuple of float
        Per triplet (s_k - s_{k+1}) / s_1; the last looks at the triplet after those returned, and at 0 where W has no
        more.
    undetermined : tuple of int
        Places of the triplets that lie so close to a neighbour, or to zero, that rounding turns their vectors: W
        doesn't determine them, another machine may find others.
    method : "krylov" or "dense"
    iterations : int
        Passes over W.
    """

    residuals: tuple[float, ...]
    gaps: tuple[float, ...]
    undetermined: tuple[int, ...]
    method: Method
    iterations: int


@dataclass(frozen=True, slots=True)
class Factors:
    """The r leading singular triplets: U (out, r), S (r,) falling, Vh (r, in), in the precision that was asked for.

    `spectrum` holds the first singular values as far as they showed, at most 16 or so: those past r are lower bounds.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor
    certificate: Certificate
    spectrum: tuple[float, ...]


def top_triplets(
    W: Tensor | NDArray[Any],
    r: int,
    *,
    precision: Precision = "float32",
    seed: int = DEFAULT_SEED,
    near: tuple[Tensor, Tensor] | None = None,
) -> Factors:
    """The min(r, out, in) leading singular triplets of W (out, in), of any floating-point dtype, on W's device.

    Singular values come within 1e-6 of s_1, vectors, up to sign, within 1e-5 over the relative gap to the nearest other
    triplet; in float64 within 1e-13 and 1e-12, but for values below 1e-7 of s_1, which come within 1e-8. Signs are
    fixed by a convention: the entry of each row of Vh that is largest in magnitude (the first of equals) is positive.

    W is widened a block at a time; beside it a few hundred megabytes are needed at most.

    Parameters
    ----------
    W : Tensor or array, (out, in)
        The result is of tensors all the same.
    r : int
        At least 1.
    precision : "float32" or "float64"
        Of the products with W and of what is returned.
    seed : int
        Of the random start.
    near : tuple of Tensor, optional
        A (k, in) and B (out, k), k at most r, whose rows and columns may lie near the triplets' vectors: the iteration
        begins with them, and ends sooner where they do.

    Raises
    ------
    FormatError
        If W isn't a matrix with entries, or has NaN or infinite ones; or r isn't positive.
    """
    if r < 1:
        raise FormatError(f"r={r}, expected a positive integer")
    W = tensor_of(W) if isinstance(W, np.ndarray) else W
    if W.ndim != 2 or not W.numel():
        raise FormatError(f"a weight of shape {tuple(W.shape)} has no singular triplets, expected (out, in)")
    accurate = precision == "float64" or W.dtype == torch.float64 or W.numel() <= _SMALL
    work = torch.float64 if accurate else torch.float32
    exponent = _exponent(W)
    wide, scale = WideWeight(W, work, exponent), 2.0**exponent
    k = min(r, wide.short)
    guess = None if near is None else near[1] if wide.transposed else near[0].T
    V, Y, Z, method, passes = _subspace(wide, k, seed, guess)
    U, values, Vh, residuals = _triplets(wide, k, V, Y, Z)
    S = values[:k]
    sign = _signs(U if wide.transposed else Vh.T)
    U, Vh = U * sign, Vh * sign[:, None]
    if wide.transposed:
        U, Vh = Vh.T, U.T
    noise = torch.finfo(work).eps
    certificate = _certify(values, residuals, noise, method, passes)
    dtype = torch.float64 if precision == "float64" else torch.float32
    spectrum = tuple((values * scale).tolist())
    return Factors(U.to(dtype).contiguous(), (S * scale).to(dtype), Vh.to(dtype).contiguous(), certificate, spectrum)


def library_triplets(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, r), S (r,) and Vh (r, in) of W (out, in) by torch's full decomposition in float32, with its signs.

    For what was made with the same call: the signs are the library's and the device's, and no convention.

    Raises
    ------
    FormatError
        If W has NaN or infinite entries.
    """
    _exponent(W)  # for its check
    U, S, Vh = torch.linalg.svd(W.float(), full_matrices=False)
    return U[:, :r].contiguous(), S[:r].contiguous(), Vh[:r].contiguous()


def _exponent(W: Tensor) -> int:
    """0; or, where squares of W's entries would leave float32's range, the exponent of a power of two to divide by."""
    low, high = (float(x) for x in torch.aminmax(W if W.is_contiguous() else W.T))  # it copies what isn't contiguous
    largest = max(-low, high)
    if not largest < float("inf"):  # NaN too
        bad = int((~torch.isfinite(W)).sum())
        raise FormatError(f"{bad} of {W.numel()} entries are NaN or infinite")
    return 0 if largest == 0.0 or 1e-12 < largest < 1e12 else math.frexp(largest)[1] - 1


def _subspace(W: WideWeight, r: int, seed: int, guess: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Method, int]:
    """V (short, k) that spans the r leading right vectors and, if there are more, the next; W V, W^T W V. A `guess` at
    the vectors has them as columns."""
    # A few columns more than r, for the next triplet and multiples. Of values that lie close more find more; later, up
    # to four the libraries take the same time.
    narrow = W.work == torch.float32 or W.holds_float32
    width = r + 4 if r <= 4 and narrow else max(16, -(-(r + 4) // 8) * 8)
    block = max(4, r + 1)
    passes = 0
    if 4 * width <= W.short and krylov.starting_cost(W, width, block) <= krylov.dense_cost(W):
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(W.short, max(16, width), generator=generator, dtype=torch.float64)
        if guess is not None:
            random = torch.cat([guess.to(random), random], 1)[:, :width]
        start = orthonormal(random).to(W.device)
        start = start if guess is not None else W.aim(start, width)
        found = (W.holds_float32 and _refined(W, r, start)) or krylov.leading_subspace(W, r, start, block=block)
        if isinstance(found, krylov.Subspace):
            return found.V, found.Y, found.Z, "krylov", found.passes
        passes = found
    V = W.right_vectors()[:, : max(width, krylov.SHOWN)].contiguous()
    Y, Z = W.apply(V)
    return V, Y.to(torch.float64), Z, "dense", passes + 2


def _refined(W: WideWeight, r: int, start: Tensor) -> krylov.Subspace | None:
    """What float32 finds, refined; None where that doesn't reach what float64 does."""
    narrow = W.narrower()
    block = max(4, r + 1 if r <= 4 else r + 4)  # many vectors take long to correct without some beside them
    rough = krylov.leading_subspace(narrow, r, start, block=block, whole=True)
    return refined(W, narrow, rough, r) if isinstance(rough, krylov.Subspace) else None


def _triplets(W: WideWeight, r: int, V: Tensor, Y: Tensor, Z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """U (long, r), all k values, Vh (r, short) within the subspace V (short, k), and the r residuals times s_1."""
    Q, R = torch.linalg.qr(Y)  # (long, k), (k, k): orthonormal even where W V is zero
    u, values, wh = torch.linalg.svd(R)
    U, S, Vh = Q @ u[:, :r], values[:r], wh[:r] @ V.T
    # What rounding did to W V itself can't be seen from here; it moves u by no more than the unit that is added.
    right = torch.linalg.vector_norm(Y @ wh[:r].T - U * S, dim=0)
    image = Z @ wh[:r].T  # W^T (s u), (short, r)
    tiny = krylov.zero_level(W.work) * S[0] >= S
    image = image / torch.where(tiny, 1.0, S)
    if bool(tiny.any()):
        image[:, tiny] = W.apply_transposed(U[:, tiny])
    left = torch.linalg.vector_norm(image - Vh.T * S, dim=0)
    return U, values, Vh, torch.maximum(right, left)


def _signs(V: Tensor) -> Tensor:
    """The sign of the entry that is largest in magnitude, by column of V (n, r): (r,)."""
    largest = V.gather(0, V.abs().argmax(0, keepdim=True))[0]
    return torch.where(largest < 0.0, -1.0, 1.0).to(V.dtype)


def _certify(singular: Tensor, residuals: Tensor, noise: float, method: Method, passes: int) -> Certificate:
    values, r = [*singular.tolist(), 0.0], len(residuals)
    top = values[0]
    if top == 0.0:
        return Certificate((0.0,) * r, (0.0,) * r, tuple(range(r)), method, passes)
    relative = [x / top for x in residuals.tolist()]
    gaps = [(values[k] - values[k + 1]) / top for k in range(r)]
    undetermined = []
    for k, residual in enumerate(relative):
        nearest = min(gaps[k], gaps[k - 1] if k else float("inf"))
        if max(residual, noise) > _TURN * nearest:
            undetermined.append(k)
    return Certificate(tuple(relative), tuple(gaps), tuple(undetermined), method, passes)


def peft_factors(W: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in float32 as PEFT makes them of W (out, in), with `top_triplets`' signs and errors."""
    return rounded_as_peft(top_triplets(W, r), W.dtype)


def rounded_as_peft(factors: Factors, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in float32 with the values that PEFT gives them for a weight of `dtype`.

    The result of `made_as_peft` is widened, as PEFT does with autocast_adapter_dtype. A float64 weight's factors stay
    in float32.
    """
    A, B = made_as_peft(factors, dtype)
    return A.float(), B.float()


def made_as_peft(factors: Factors, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) in `dtype`, as PEFT makes them for a weight of that dtype.

    U, S and Vh are rounded to the weight's dtype before the square root and the products, each of which rounds again
    (PEFT 0.19.1 to 0.21.2, `TinyLoraLayer._init_svd`). Repeated here so that factors match bit for bit wherever U, S
    and Vh do.

    The root is the nearest number of the dtype: torch's own of float32 is off by a unit for a sixth of all numbers
    where MKL meets an AMD processor, so it is taken in float64, whose last unit can't move it.
    """
    U, S, Vh = factors.U.to(dtype), factors.S.to(dtype), factors.Vh.to(dtype)
    root = torch.sqrt(S.double()).to(dtype)
    return root[:, None] * Vh, U * root


def match_signs(factors: Factors, A: Tensor, B: Tensor) -> Factors:
    """The same triplets with the signs that A (r, in) and B (out, r) have, as far as these are of the same weight.

    What a library's SVD chose is part of an adapter: flipping a pair u_k, v_k turns R into another matrix.
    """
    alike = (factors.U.double() * B.double()).sum(0) + (factors.Vh.double() * A.double()).sum(1)  # (r,)
    sign = torch.where(alike < 0.0, -1.0, 1.0).to(factors.U.dtype)
    return replace(factors, U=factors.U * sign, Vh=factors.Vh * sign[:, None])
