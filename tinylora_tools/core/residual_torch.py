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
        U, Vh = Vh.T, U.T
    S = torch.from_numpy(triplets.S).to(W.device)
    image, back = wide.products(Vh.T, U)  # (long, k), (short, k)
    right, left = image - U * S, back - Vh.T * S
    off = torch.cat([torch.linalg.vector_norm(part, dim=0) for part in (right, left)])
    return float(off.max() / S.max())
