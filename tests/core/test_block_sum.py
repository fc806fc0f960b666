"""W + left @ right: within the promised error of exact sums, in the fixed order bit for bit, and honest of both."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tinylora_tools.core.block_sum import NumpyBlockAdder, work_dtype
from tinylora_tools.core.residual import BaseResidual, Triplets

DTYPES = [np.dtype(name) for name in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64)]
RNG = np.random.default_rng(6)


def case(dtype: np.dtype[Any], rows: int = 40, columns: int = 700, k: int = 3) -> tuple[NDArray[Any], ...]:
    """A block, wider than NumPy's buffer, and an update a tenth as large."""
    work = work_dtype(dtype)
    W = RNG.standard_normal((rows, columns)).astype(dtype)
    return W, (0.1 * RNG.standard_normal((rows, k))).astype(work), RNG.standard_normal((k, columns)).astype(work)


def added(W: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> tuple[NDArray[Any], float]:
    out = np.empty(W.shape, W.dtype)
    found = NumpyBlockAdder(W.size, work_dtype(W.dtype)).add(W, left, right, out)
    return out, found.error


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_order_of_operations_is_fixed(dtype: np.dtype[Any]) -> None:
    W, left, right = case(dtype)
    out, _ = added(W, left, right)
    terms = [left[:, k, None] * right[None, k] for k in range(3)]
    expected = (W.astype(work_dtype(dtype)) + ((terms[0] + terms[1]) + terms[2])).astype(dtype)
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("k", [1, 2, 16])
def test_the_error_is_within_the_promised_bound(dtype: np.dtype[Any], k: int) -> None:
    W, left, right = (part.astype(np.float64) for part in case(dtype, k=k))
    out, _ = added(W.astype(dtype), left.astype(work_dtype(dtype)), right.astype(work_dtype(dtype)))
    exact = W + left @ right
    spacing = np.spacing(np.abs(out)).astype(np.float64)
    if dtype.itemsize == 2:
        bound = spacing / 2 + (k + 2) * 2.0**-24 * (np.abs(W) + np.abs(left) @ np.abs(right))
    else:
        bound = spacing
    assert np.all(np.abs(out.astype(np.float64) - exact) <= bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_of_any_height_make_the_same_bytes(dtype: np.dtype[Any]) -> None:
    W, left, right = case(dtype)
    whole, error = added(W, left, right)
    out, errors = np.empty_like(W), 0.0
    adder = NumpyBlockAdder(7 * W.shape[1], work_dtype(dtype))
    for first in range(0, len(W), 7):
        rows = slice(first, first + 7)
        errors += adder.add(W[rows], left[rows], right, out[rows]).error
    assert out.tobytes() == whole.tobytes()
    assert errors == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_rounding_did_to_the_update_is_told(dtype: np.dtype[Any]) -> None:
    W, left, right = case(dtype)
    out, error = added(W, left, right)
    wide, delta = W.astype(np.float64), left.astype(np.float64) @ right.astype(np.float64)
    exact = float(np.sum((out.astype(np.float64) - wide - delta) ** 2))
    if dtype.itemsize == 2:
        assert error == pytest.approx(exact, rel=1e-3)
    else:
        assert error < 1e-8 if dtype == np.float32 else error < 1e-24


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_a_result_that_is_not_finite_shows_in_the_error(dtype: np.dtype[Any]) -> None:
    W, left, right = case(dtype, 3, 4, 1)
    W[1, 2], left[1, 0], right[0, 2] = ml_dtypes.finfo(dtype).max, 1e19, 1e19
    out, error = added(W, left, right)
    assert not np.isfinite(out.astype(np.float64)).all()
    assert not np.isfinite(error)


def test_the_buffer_of_numpy_is_the_caller_s_again() -> None:
    before = np.getbufsize()
    added(*case(DTYPES[0]))
    assert np.getbufsize() == before


def test_triplets_are_checked_in_passing() -> None:
    W, left, right = case(np.dtype(np.float32))
    U, S, Vh = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    triplets = Triplets(U[:, :2], S[:2], Vh[:2])
    stranger = Triplets(U[:, 2:4], S[:2], Vh[2:4])
    residuals = [BaseResidual(triplets), BaseResidual(stranger)]
    adder, out = NumpyBlockAdder(16 * W.shape[1], np.dtype(np.float64)), np.empty_like(W)
    for first in range(0, len(W), 16):
        rows = slice(first, first + 16)
        found = adder.add(W[rows], left[rows], right, out[rows], triplets=[triplets, stranger], first=first)
        for residual, parts in zip(residuals, found.residuals, strict=True):
            residual.add(parts)
    rho = [residual.rho for residual in residuals]
    assert rho[0] is not None
    assert rho[0] < 1e-12
    assert rho[1] == pytest.approx(float(S[0] - S[2]) / S[0], rel=1e-9)
