"""Residuals of triplets against the dense products, and the lines between a weight, its relatives and strangers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tinylora_tools.core.residual import BaseResidual, Triplets, residual_of, residual_parts, verdict_on

RNG = np.random.default_rng(3)


def factors_of(W: NDArray[Any], r: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A and B in float64, of the exact triplets."""
    U, S, Vh = np.linalg.svd(W, full_matrices=False)
    return np.sqrt(S[:r, None]) * Vh[:r], U[:, :r] * np.sqrt(S[:r])


def dense_residual(W: NDArray[Any], triplets: Triplets) -> float:
    right = np.linalg.norm(W @ triplets.Vh.T - triplets.U * triplets.S, axis=0)
    left = np.linalg.norm(triplets.U.T @ W - triplets.S[:, None] * triplets.Vh, axis=1)
    return float(max(right.max(), left.max()) / triplets.S.max())


def test_factors_tell_the_triplets() -> None:
    W = RNG.standard_normal((30, 20))
    U, S, Vh = np.linalg.svd(W, full_matrices=False)
    triplets = Triplets.from_factors(*factors_of(W, 4), np.dtype(np.float64))
    np.testing.assert_allclose(triplets.S, S[:4], rtol=1e-12)
    np.testing.assert_allclose(triplets.U, U[:, :4], atol=1e-12)
    np.testing.assert_allclose(triplets.Vh, Vh[:4], atol=1e-12)
    assert residual_of(W, triplets) < 1e-12
    assert residual_of(W.T, triplets.transposed()) < 1e-12
    assert residual_of(W[::-1].copy(), triplets) > 0.3


@pytest.mark.parametrize("rows", [1, 7, 30, 512])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_residual_is_the_dense_one_however_rows_are_split(rows: int, dtype: type) -> None:
    W = RNG.standard_normal((30, 20))
    triplets = Triplets.from_factors(*factors_of(W, 3), np.dtype(dtype))
    moved = W + 0.05 * RNG.standard_normal(W.shape)
    assert residual_of(moved, triplets, rows) == pytest.approx(dense_residual(moved, triplets), rel=1e-5)


def test_a_weight_that_moved_on_one_side_alone_is_seen() -> None:
    """W v = s u may hold while W^T u = s v doesn't, and the other way round."""
    W = np.diag([3.0, 2.0, 1.0])
    triplets = Triplets.from_factors(*factors_of(W, 1), np.dtype(np.float64))
    for at in ((0, 2), (2, 0)):
        moved = W.copy()
        moved[at] = 0.3
        assert residual_of(moved, triplets) == pytest.approx(0.1)


def test_zero_triplets_are_left_out_and_nothing_can_be_said_of_none() -> None:
    W = np.outer([1.0, 2, 2], [0.6, 0.8])
    A, B = factors_of(W, 2)
    A[1], B[:, 1] = 0, 0
    triplets = Triplets.from_factors(A, B, np.dtype(np.float64))
    np.testing.assert_allclose(triplets.S, [3.0])
    assert residual_of(W, triplets) < 1e-12
    none = Triplets.from_factors(0 * A, 0 * B, np.dtype(np.float64))
    residual = BaseResidual(none)
    residual.add(residual_parts(W, none, 0))
    assert residual.rho is None
    assert residual_of(W, none) == 0.0


@pytest.mark.parametrize(
    ("rho", "factors", "base", "verdict"),
    [
        (0.3, "bfloat16", "bfloat16", "moved"),
        (0.3001, "bfloat16", "bfloat16", "other"),
        (float("nan"), "float32", "float32", "other"),
        (float("inf"), "float32", "float32", "other"),
        (1.4e-2, "bfloat16", "bfloat16", "own"),
        (2.1e-2, "float16", "float32", "moved"),
        (1.2e-3, "float32", "bfloat16", "own"),
        (1.9e-3, "float32", "float16", "own"),
        (2.1e-3, "float32", "float16", "moved"),
        (2.4e-6, "float32", "float32", "own"),
        (1.1e-4, "float32", "float32", "moved"),
        (1.1e-4, "float32", "float64", "moved"),
    ],
)
def test_the_lines_that_were_measured(rho: float, factors: str, base: str, verdict: str) -> None:
    assert verdict_on(rho, factors, base) == verdict
