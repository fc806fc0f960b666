"""Factors that every machine computes alike: PEFT's A and B from triplets found in float64.

The triplets come within about 1e-15 over their gap of the exact ones, so rounding them to 16 bits gives the same bits
everywhere, but where an entry lies so close to the middle between two numbers that it may go either way. Those are
named. Letters as in `lowrank`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_arrays import array_of
from .entries import Canonical
from .triplets import Factors, rounded_as_peft, top_triplets

#: How far from the exact vectors those of any machine may be, for a gap of 1.
_OFF = 5e-14


def canonical_factors(W: Tensor, r: int) -> Canonical:
    """The canonical factors of W (out, in), rounded as PEFT rounds them for W's dtype.

    Raises
    ------
    FormatError
        If W isn't finite.
    """
    found = top_triplets(W, r, precision="float64")
    dtype = torch.float32 if W.dtype == torch.float64 else W.dtype
    A, B = rounded_as_peft(found, dtype)
    row, column, value = _unsure(found, dtype)
    unsure_b = row | value  # (out, r)
    unsure_a = column | value[:, None]  # (r, in)
    return Canonical(array_of(A), array_of(B), unsure_a.cpu().numpy(), unsure_b.cpu().numpy())


def _unsure(found: Factors, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Where U (out, r), Vh (r, in) and S (r,) may round either way."""
    gaps = found.certificate.gaps
    nearest = [min(gap, gaps[k - 1] if k else gap) for k, gap in enumerate(gaps)]
    off = torch.tensor([_OFF / max(gap, 1e-12) for gap in nearest], dtype=torch.float64, device=found.U.device)
    lost = torch.zeros(len(nearest), dtype=torch.bool, device=found.U.device)
    for k in found.certificate.undetermined:
        lost[k] = True
    top = float(found.S[0]) if len(found.S) else 0.0
    return (
        _either_way(found.U, off, dtype),
        _either_way(found.Vh, off[:, None], dtype),
        _either_way(found.S, torch.full_like(found.S, _OFF * top), dtype) | lost,
    )


def _either_way(x: Tensor, off: Tensor, dtype: torch.dtype) -> Tensor:
    return (x - off).to(dtype) != (x + off).to(dtype)
