"""Distances of float32 arrays against NumPy's own neighbours, digests against hashlib, updates against dense ones."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylora_tools.core.compare import Difference, difference, digest, update_distance

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(FLOAT32.filter(lambda x: abs(x) < 1e30), st.integers(1, 20))
def test_units_are_steps_between_neighbours(start: float, steps: int) -> None:
    """Through zero and the subnormal numbers too, of which -0.0 and 0.0 are one place."""
    one = other = np.float32(start)
    for _ in range(steps):
        other = np.nextafter(other, np.float32(np.inf))
    found = difference(np.array([one, 0], np.float32), np.array([other, 0], np.float32))
    assert found == Difference(False, steps, float(other) - float(one))


@pytest.mark.parametrize("one", [0.0, -0.0])
def test_only_the_same_bits_are_identical(one: float) -> None:
    values = np.array([one, 1.0], np.float32)
    assert difference(values, values.copy()) == Difference(True, 0, 0.0)
    assert difference(values, np.array([-one, 1.0], np.float32)) == Difference(False, 0, 0.0)


def test_the_largest_distances_may_be_of_different_entries() -> None:
    found = difference(np.array([1e-30, 1000.0], np.float32), np.array([2e-30, 1000.5], np.float32))
    assert found.max_abs == 0.5
    assert found.max_ulp == int(np.float32(2e-30).view(np.int32) - np.float32(1e-30).view(np.int32))


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<i8"])
def test_a_digest_is_of_the_little_endian_bytes_in_c_order(dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    expected = hashlib.sha256(values.tobytes()).hexdigest()
    assert digest(values) == expected
    assert digest(values.astype(dtype.replace("<", ">"))) == expected
    assert digest(np.asfortranarray(values)) == expected
    assert digest(values.T) != expected


def test_the_distance_of_updates_is_the_dense_one() -> None:
    rng = np.random.default_rng(1)
    A, B, R = rng.standard_normal((2, 9)), rng.standard_normal((7, 2)), rng.standard_normal((2, 2))
    other = A + 1e-3 * rng.standard_normal(A.shape), B + 1e-3 * rng.standard_normal(B.shape), R * 1.001
    dense = np.linalg.norm(B @ R @ A - other[1] @ other[2] @ other[0]) / np.linalg.norm(B @ R @ A)
    assert update_distance((A, B, R), other) == pytest.approx(dense, rel=1e-9)
    assert update_distance((A, B, R), (A, B, R)) == 0.0


def test_without_an_update_the_factors_are_compared() -> None:
    rng = np.random.default_rng(2)
    A, B, zero = rng.standard_normal((2, 9)), rng.standard_normal((7, 2)), np.zeros((2, 2))
    moved = B * 1.01
    dense = np.linalg.norm(B @ A - moved @ A) / np.linalg.norm(B @ A)
    assert update_distance((A, B, zero), (A, moved, zero)) == pytest.approx(dense, rel=1e-9)
    assert update_distance((0 * A, B, zero), (A, B, zero)) == 0.0
