"""Canonical factors against a dense float64 decomposition: the same bits, but where they are said to be unsure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matrices import counted, gaussian, with_values
from torch import Tensor

from tinylora_tools.core.svd.canonical import Canonical, canonical_factors
from tinylora_tools.core.svd.triplets import match_signs, peft_factors, rounded_as_peft, top_triplets
from tinylora_tools.errors import FormatError

SPREAD = torch.cat([torch.tensor([8.0, 5, 3, 2], dtype=torch.float64), counted(200) ** -0.3])


def dense_factors(W: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """A and B as PEFT rounds them, of the dense float64 triplets, with the convention's signs."""
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    U, S, Vh = U[:, :r], S[:r], Vh[:r]
    sign = torch.sign(Vh.gather(1, Vh.abs().argmax(1, keepdim=True)))[:, 0]
    U, S, Vh = (U * sign).to(W.dtype), S.to(W.dtype), (Vh * sign[:, None]).to(W.dtype)
    root = torch.sqrt(S)
    return (root[:, None] * Vh).float(), (U * root).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(300, 1100), (1100, 300)], ids=str)
def test_bits_are_those_of_the_exact_triplets(shape: tuple[int, int], dtype: torch.dtype) -> None:
    W = with_values(*shape, SPREAD).to(dtype)
    found = canonical_factors(W, 4)
    A, B = dense_factors(W, 4)
    assert np.array_equal(found.A[~found.unsure_a], A.numpy()[~found.unsure_a])
    assert np.array_equal(found.B[~found.unsure_b], B.numpy()[~found.unsure_b])
    few = 1e-2 if dtype == torch.float32 else 1e-3
    assert found.unsure_a.mean() < few
    assert found.unsure_b.mean() < few
    assert found.A.dtype == found.B.dtype == np.float32


def test_a_float64_weight_s_factors_are_rounded_once_to_float32() -> None:
    W = with_values(60, 50, counted(20).flip(0))
    found = canonical_factors(W, 3)
    exact = top_triplets(W, 3, precision="float64")
    for mine, wide in zip((found.A, found.B), rounded_as_peft(exact, torch.float32), strict=True):
        assert np.array_equal(mine, wide.numpy())


def test_triplets_that_the_weight_does_not_determine_are_unsure_from_end_to_end() -> None:
    W = with_values(80, 70, torch.tensor([4.0, 2, 2, 1], dtype=torch.float64))
    found = canonical_factors(W, 3)
    assert found.unsure_a[1:].all()
    assert found.unsure_b[:, 1:].all()
    assert found.unsure_a[0].mean() < 0.01
    assert found.unsure_b[:, 0].mean() < 0.01


def test_an_entry_between_two_numbers_is_unsure() -> None:
    middle = 2.0**-3 * (1 + 2.0**-24)  # of two float32 numbers
    row = torch.tensor([[(1 - 2 * middle**2) ** 0.5, middle, middle]], dtype=torch.float64)
    W = torch.tensor([[0.6], [0.8]], dtype=torch.float64) @ row
    found = canonical_factors(W, 1)
    assert found.unsure_a.tolist() == [[False, True, True]]
    assert not found.unsure_b.any()


def test_flipping_pairs_changes_their_signs_alone() -> None:
    found = canonical_factors(gaussian(40, 30).to(torch.bfloat16), 3)
    flipped = found.signed(np.array([True, False, True]))
    assert isinstance(flipped, Canonical)
    assert np.array_equal(flipped.A, found.A * np.array([[-1], [1], [-1]]))
    assert np.array_equal(flipped.B, found.B * np.array([-1, 1, -1]))
    assert np.array_equal(flipped.unsure_a, found.unsure_a)
    assert np.array_equal(flipped.unsure_b, found.unsure_b)


def test_they_are_peft_s_factors_to_float32_s_rounding() -> None:
    W = with_values(200, 150, SPREAD[:120]).float()
    found = canonical_factors(W, 4)
    A, B = (part.numpy() for part in peft_factors(W, 4))
    assert np.abs(found.A - A).max() < 1e-5
    assert np.abs(found.B - B).max() < 1e-5
    signed = match_signs(top_triplets(W, 4), -torch.from_numpy(found.A), -torch.from_numpy(found.B))
    assert np.abs(signed.Vh.numpy() * np.sqrt(signed.S.numpy())[:, None] + found.A).max() < 1e-5


def test_refuses_a_weight_that_is_not_finite() -> None:
    with pytest.raises(FormatError, match="1 of 6 entries are NaN or infinite"):
        canonical_factors(torch.tensor([[1.0, 2, 3], [4, float("nan"), 6]]), 1)
