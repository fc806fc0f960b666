"""The update's arithmetic against dense float64 algebra, and its fixed order of operations bit for bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinylora_tools.core.lowrank import left_factor, projected, squared_norm, training_dtype

RNG = np.random.default_rng(5)


def normal(*shape: int) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("out", "in_", "r", "u"), [(7, 5, 2, 13), (3, 8, 1, 1), (20, 30, 16, 64)])
def test_the_update_is_the_paper_s(out: int, in_: int, r: int, u: int) -> None:
    A, B, P, v = normal(r, in_), normal(out, r), normal(u, r, r), normal(u)
    R = projected(v, P)
    assert R.dtype == np.float64
    expected = sum(float(v[i]) * P[i].astype(np.float64) for i in range(u))
    np.testing.assert_allclose(R, expected, rtol=0, atol=1e-12)
    left = left_factor(B, R, 0.5)
    delta = 0.5 * B.astype(np.float64) @ expected @ A.astype(np.float64)
    np.testing.assert_allclose(left @ A.astype(np.float64), delta, rtol=0, atol=1e-10)
    assert squared_norm(left, A) == pytest.approx(np.linalg.norm(delta) ** 2, rel=1e-10)


@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("u", "r"), [(1, 1), (3, 1), (64, 1), (13, 2), (64, 5)])
def test_r_is_summed_projection_by_projection(u: int, r: int, stored: Any) -> None:
    for _ in range(20):
        P, v = normal(u, r, r).astype(stored), normal(u)
        found = projected(v, P)
        for j in range(r):
            for k in range(r):
                total = 0.0
                for i in range(u):
                    total += float(v[i]) * float(P[i, j, k])
                assert found[j, k] == total


@given(st.lists(st.floats(-1e8, 1e8), min_size=12, max_size=12), st.floats(-100, 100))
def test_b_r_is_summed_rank_by_rank(values: list[float], scale: float) -> None:
    """One column of B after the other, whatever the numbers: a matrix product would sum as it likes."""
    B, R = np.array(values[:6]).reshape(2, 3), np.array(values[3:12]).reshape(3, 3)
    found = left_factor(B, R, scale)
    for i in range(2):
        for j in range(3):
            total = 0.0
            for k in range(3):
                total += float(B[i, k]) * (float(R[k, j]) * scale)
            assert found[i, j] == total


def test_a_norm_that_cancels_is_not_negative() -> None:
    left = np.array([[1.0, -1.0]]) * 1e8 / 3
    right = np.array([[0.1], [0.1]])
    assert 0.0 <= squared_norm(left, right) < 1.0


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (normal(4, 3).astype(ml_dtypes.bfloat16), "bfloat16"),
        (normal(4, 3).astype(np.float16), "float16"),
        (normal(4, 3), "float32"),
        (np.array([0.5, -2.0, 0.0]), "bfloat16"),  # in every dtype: bfloat16 is asked first
        (np.array([1e30]).astype(ml_dtypes.bfloat16), "bfloat16"),  # beyond float16
        (np.array([1e30]), "float32"),
        (np.array([1e300]), "float32"),
    ],
)
def test_the_training_dtype_is_the_first_that_holds_the_values(values: NDArray[Any], dtype: str) -> None:
    assert training_dtype(values.astype(np.float64)) == dtype


def test_one_array_that_needs_more_decides() -> None:
    narrow = normal(3, 3).astype(ml_dtypes.bfloat16).astype(np.float32)
    half = normal(3, 3).astype(np.float16).astype(np.float32)
    assert training_dtype(narrow, narrow) == "bfloat16"
    assert training_dtype(narrow, half) == "float16"  # bfloat16's values of a common size are float16's too
    assert training_dtype(narrow, half, np.float32([2.0**70])) == "float32"
    assert training_dtype(half, np.float32([0.25])) == "float16"
    assert training_dtype(half, np.float32([0.1])) == "float32"
