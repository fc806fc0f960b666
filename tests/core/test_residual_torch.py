"""Residuals by torch, beside NumPy's."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from tinylora_tools.core import residual
from tinylora_tools.core.residual import Triplets
from tinylora_tools.core.residual_torch import residual_of
from tinylora_tools.core.torch_arrays import tensor_of

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
RNG = np.random.default_rng(5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(300, 40), (40, 300), (1, 9), (3000, 700)])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_it_is_numpy_s(shape: tuple[int, int], dtype: type, device: str) -> None:
    """Of the weight itself, of one that moved, and of another's; as it is stored, and transposed."""
    W = RNG.standard_normal(shape).astype(dtype)
    U, S, Vh = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    k = min(2, len(S))
    wide = np.dtype(np.float64 if dtype is np.float64 else np.float32)
    triplets = Triplets.from_factors(np.sqrt(S[:k, None]) * Vh[:k], U[:, :k] * np.sqrt(S[:k]), wide)
    for other in (W, (W + 0.05 * RNG.standard_normal(shape)).astype(dtype), RNG.standard_normal(shape).astype(dtype)):
        expected = residual.residual_of(other, triplets)
        assert residual_of(tensor_of(other).to(device), triplets) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert residual_of(tensor_of(other).to(device).T, triplets.transposed()) == pytest.approx(
            expected, rel=1e-4, abs=1e-6
        )


def test_nothing_to_compare_with_and_nothing_to_compare() -> None:
    W = torch.ones(4, 3)
    assert residual_of(W, Triplets(np.zeros((4, 0)), np.zeros(0), np.zeros((0, 3)))) == 0.0
    one = Triplets(np.ones((4, 1), np.float32) / 2, np.ones(1), np.ones((1, 3), np.float32))
    for value in (torch.nan, torch.inf):
        W[0, 0] = value
        assert not residual_of(W, one) <= 1.0
