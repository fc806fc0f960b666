"""PEFT's factors of a weight as PEFT computes them on this machine, with the signs that its library chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..torch_arrays import array_of


def library_factors(W: Tensor, r: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A (r, in) and B (out, r) in float32 of W (out, in): the whole decomposition, rounded to W's dtype on the way.

    Source: peft/tuners/tinylora/layer.py, `_init_svd`, of PEFT 0.21.2. Another machine's library may turn the signs of
    a pair, which makes another adapter of it: see `same_signs`.
    """
    U, S, Vh = (part.to(W.dtype) for part in torch.linalg.svd(W.float(), full_matrices=False))
    root = torch.sqrt(S[:r])
    return array_of((root[:, None] * Vh[:r]).float()), array_of((U[:, :r] * root).float())


def same_signs(A: NDArray[Any], B: NDArray[Any], other_a: NDArray[Any], other_b: NDArray[Any]) -> NDArray[np.bool_]:
    """For each pair (r,) whether A (r, in) and B (out, r) point the same way as the others."""
    alike = np.einsum("ij,ij->i", A.astype(np.float64), other_a) + np.einsum("ij,ij->j", B.astype(np.float64), other_b)
    return np.asarray(alike > 0.0)
