"""`residual.residual_of` by torch: on its devices, and with all its threads. Letters as in `lowrank`."""

from __future__ import annotations

import torch
from torch import Tensor

from .residual import Triplets
from .svd.wide_weight import WideWeight
from .torch_arrays import tensor_of


def residual_of(W: Tensor, triplets: Triplets) -> float:
    """rho of a whole weight W (rows, columns), widened a block at a time; 0 where every triplet is zero.

    Only the order of sums, and so the last digits, are others than `residual.residual_of`'s.
    """
    if not triplets.S.size:
        return 0.0
    U, Vh = (tensor_of(part).to(W.device) for part in (triplets.U, triplets.Vh))  # (rows, k), (k, columns)
    wide = WideWeight(W, U.dtype)
    if wide.transposed:
        U, Vh = Vh.T.contiguous(), U.T.contiguous()
    S = torch.from_numpy(triplets.S).to(W.device, U.dtype)
    right = torch.zeros(len(S), dtype=torch.float64, device=W.device)
    left = torch.zeros(Vh.shape, dtype=torch.float64, device=W.device)
    for part, block in wide.blocks():
        gap = Vh @ block.T - (U[part] * S).T  # (k, size)
        right += torch.sum(gap.double() ** 2, 1)
        left += U[part].T @ block
    off = torch.sum((left - S[:, None] * Vh) ** 2, 1)
    return float(torch.sqrt(torch.cat([right, off]).max()) / S.max())
