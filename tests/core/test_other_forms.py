"""Other projects' forms as B R A, against dense products and against torch's arithmetic."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from tinylora_tools.core.other_forms import best_signs, evenly, rooted
from tinylora_tools.core.torch_arrays import tensor_of

RNG = np.random.default_rng(4)


def test_the_same_update_for_every_v() -> None:
    left, right, P = RNG.standard_normal((9, 3)), RNG.standard_normal((3, 7)), RNG.standard_normal((5, 3, 3))
    left *= [100.0, 1.0, 1e-3]
    A, B, even = evenly(left, right, P, 0.25)
    assert A.dtype == B.dtype == even.dtype == np.float32
    for v in RNG.standard_normal((4, 5)):
        wanted = 0.25 * left @ np.einsum("i,ijk->jk", v, P) @ right
        wide = B.astype(np.float64) @ np.einsum("i,ijk->jk", v, even.astype(np.float64)) @ A.astype(np.float64)
        assert np.linalg.norm(wide - wanted) < 1e-6 * np.linalg.norm(wanted)


def test_both_sides_carry_the_root_of_the_singular_value() -> None:
    U, _ = np.linalg.qr(RNG.standard_normal((9, 3)))
    Vh, S = np.linalg.qr(RNG.standard_normal((7, 3)))[0].T, np.array([16.0, 4.0, 0.25])
    A, B, _ = evenly(U * S, Vh, np.zeros((1, 3, 3)))
    np.testing.assert_allclose(A, np.sqrt(S)[:, None] * Vh, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(B, U * np.sqrt(S), rtol=1e-6, atol=1e-7)


def test_a_zero_singular_value_keeps_its_row() -> None:
    left, right = np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    A, B, P = evenly(left, right, np.ones((1, 2, 2)))
    assert A[1].tolist() == [0.0, 1.0]
    assert not B[:, 1].any()
    np.testing.assert_allclose(B @ P[0] @ A, left @ np.ones((2, 2)) @ right, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_roots_and_products_are_rounded_as_torch_rounds_them(dtype: torch.dtype) -> None:
    import ml_dtypes

    name = str(dtype).removeprefix("torch.")
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
    U, Vh = (RNG.standard_normal(shape).astype(numpy_dtype) for shape in ((40, 3), (3, 50)))
    S = np.array([7.3, 2.1, 0.6]).astype(numpy_dtype)
    A, B = rooted(U, S, Vh)
    # In double: torch's float32 roots are MKL's, which on AMD's processors are an ulp off for one number in six.
    root = torch.sqrt(tensor_of(S).double()).to(dtype)
    assert root.dtype == dtype
    assert torch.equal(torch.from_numpy(A), (root[:, None] * tensor_of(Vh)).float())
    assert torch.equal(torch.from_numpy(B), (tensor_of(U) * root).float())


@pytest.mark.parametrize("r", [1, 2, 3, 5])
def test_every_choice_of_signs_is_found_up_to_its_negative(r: int) -> None:
    R = RNG.standard_normal((r, r))
    for signs in product((1.0, -1.0), repeat=r):
        d = np.array(signs)
        found, off, sure = best_signs(d[:, None] * R * d, R)
        assert np.array_equal(found, d * d[0])
        assert off == 0.0
        assert sure > 1000


def test_signs_that_do_not_show_are_of_no_account() -> None:
    """A diagonal R is the same for every choice, so that nothing fits next best; a zero one says nothing at all."""
    R = np.diag([1.0, 2.0, 3.0])
    assert best_signs(R, R)[1:] == (0.0, np.inf)
    d, off, sure = best_signs(np.zeros((2, 2)), np.zeros((2, 2)))
    assert (d.tolist(), off, sure) == ([1.0, 1.0], 0.0, np.inf)
    assert best_signs(np.zeros((2, 2)), np.ones((2, 2)))[1:] == (np.inf, np.inf)


def test_how_far_off_is_relative_to_what_was_observed() -> None:
    R = np.array([[1.0, 2.0], [3.0, 4.0]])
    _, off, _ = best_signs(1.1 * R, R)
    assert off == pytest.approx(0.1 / 1.1)
