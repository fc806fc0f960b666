"""How tensors differ, beside NumPy's own figures of the whole."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylora_tools.core.differing import Differing

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}


def compared(a: np.ndarray, b: np.ndarray, block: int = 7) -> Differing:
    sums = Differing(*a.shape, sketched=True)
    for first in range(0, len(a), block):
        sums.add(a[first : first + block], b[first : first + block], first)
    sums.start_again()
    for first in range(0, len(a), block):
        sums.project(a[first : first + block], b[first : first + block], first)
    return sums


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 3, 13, 39])
@pytest.mark.parametrize("shape", [(96, 64), (64, 200), (41, 41)])
def test_the_rank_of_an_update_stands_above_its_rounding(dtype: str, rank: int, shape: tuple[int, int]) -> None:
    """Weights as models have them, an update of a tenth of their norm, the sum rounded as it is stored."""
    rng = np.random.default_rng(rank)
    a = (rng.standard_normal(shape) * 0.02).astype(DTYPES[dtype])
    left, right = (
        np.linalg.qr(rng.standard_normal((shape[0], rank)))[0],
        np.linalg.qr(rng.standard_normal((shape[1], rank)))[0],
    )
    update = left @ right.T * (0.3 / np.sqrt(rank))
    b = (a.astype(np.float64) + update).astype(DTYPES[dtype])
    assert compared(a, b).rank() == rank


def test_ranks_from_the_most_that_is_told_on() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 100, 80)).astype(np.float32)
    assert compared(a, b).rank() == 40
    assert compared(a[:9], b[:9]).rank() == 9


def test_what_is_only_rounding_has_no_rank() -> None:
    a = (np.random.default_rng(0).standard_normal((200, 100)) * 0.02).astype(np.float32)
    b = a.astype(ml_dtypes.bfloat16)
    sums = compared(a, b)
    assert sums.rank() == 0
    assert sums.figures().max_ulp is None
    assert 0 < sums.figures().relative < 2**-8


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(DTYPES)))
def test_figures_are_those_of_the_whole(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((2, 23, 5)) * 10.0 ** rng.integers(-3, 4)).astype(DTYPES[dtype])
    found = compared(a, b).figures()
    wide, other = a.astype(np.float64), b.astype(np.float64)
    assert found.max_abs == np.max(np.abs(wide - other))
    assert found.relative == pytest.approx(np.linalg.norm(wide - other) / np.linalg.norm(wide), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_units_in_the_last_place_are_counted_as_numpy_steps(dtype: str) -> None:
    """Through zero and over powers of two."""
    for start, steps in ((1.0, 5), (-1.0, 3), (0.0, 2), (65.0, 1000)):
        a = np.full((1, 1), start, DTYPES[dtype])
        b = a.copy()
        for _ in range(steps):
            b = np.nextafter(b, np.array(np.inf, DTYPES[dtype]))
        assert compared(a, b).figures().max_ulp == steps


def test_numbers_that_are_none() -> None:
    a = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    same = compared(a, a.copy()).figures()
    assert (same.max_abs, same.max_ulp) == (0.0, 0)
    other = compared(a, np.array([[1.0, np.inf, np.inf, 1.0]], np.float32)).figures()
    assert other.max_abs == np.inf
    assert not other.relative <= 1e300


def test_nothing_beside_something() -> None:
    zeros = np.zeros((3, 4), np.float32)
    assert compared(zeros, zeros + 1).figures().relative == np.inf
    assert compared(zeros, -zeros).figures()[:2] == (0.0, 0.0)
