"""Are stored factors the weight's? Asked of factors that PEFT itself made, of the weight and of one that moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matrices import counted, factors_of_peft, gaussian, with_values
from torch import Tensor

from tinylora_tools.core.svd.recomputed import Recomputed, recompute

VALUES = torch.cat([torch.tensor([8.0, 5, 3, 2], dtype=torch.float64), counted(200) ** -0.3])
NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}


def asked(W: Tensor, of: Tensor, r: int = 3) -> Recomputed:
    """Whether PEFT's factors of one weight are another's."""
    A, B = (part.numpy() for part in factors_of_peft(of, r))
    return recompute(W, A, B, NAMES[of.dtype])


@pytest.mark.parametrize("dtype", NAMES, ids=str)
@pytest.mark.parametrize("shape", [(300, 700), (700, 300)], ids=str)
def test_peft_s_factors_of_the_very_weight(shape: tuple[int, int], dtype: torch.dtype) -> None:
    W = with_values(*shape, VALUES).to(dtype)
    found = asked(W, W)
    assert found.same
    assert found.determined
    S = torch.linalg.svdvals(W.double())
    assert found.gap == pytest.approx(float((S[:3] - S[1:4]).min() / S[0]), rel=1e-4)
    if dtype == torch.float32:
        assert found.agreement is None
        assert found.difference < 1e-5
    else:
        assert found.agreement is not None
        assert found.agreement > 0.99


@pytest.mark.parametrize("dtype", NAMES, ids=str)
def test_a_weight_that_moved_by_a_thousandth(dtype: torch.dtype) -> None:
    W = with_values(600, 500, VALUES)
    noise = gaussian(600, 500)
    moved = W + 1e-3 * float(torch.linalg.matrix_norm(W)) / float(torch.linalg.matrix_norm(noise)) * noise
    found = asked(moved.to(dtype), W.to(dtype))
    assert not found.same
    assert found.determined


def test_another_weight_shares_nothing() -> None:
    found = asked(gaussian(60, 50).to(torch.bfloat16), with_values(60, 50, counted(20)).to(torch.bfloat16))
    assert not found.same
    assert found.agreement is not None
    assert found.agreement < 0.1
    assert found.difference > 0.5


def test_signs_of_the_library_do_not_matter() -> None:
    W = with_values(200, 150, VALUES[:100]).to(torch.bfloat16)
    A, B = (part.numpy() for part in factors_of_peft(W, 3))
    d = np.array([-1, 1, -1], np.float32)
    one, other = recompute(W, A, B, "bfloat16"), recompute(W, A * d[:, None], B * d, "bfloat16")
    assert one == other


def test_triplets_that_turn_freely_say_nothing() -> None:
    W = with_values(90, 80, torch.ones(8, dtype=torch.float64)).to(torch.float32)
    found = asked(W, W, 2)
    assert not found.determined
    assert found.agreement is None
    assert found.gap < 1e-6


def test_stored_triplets_of_zero_are_left_out() -> None:
    W = with_values(50, 40, torch.tensor([4.0, 2.0], dtype=torch.float64)).to(torch.bfloat16)
    A, B = (part.numpy().copy() for part in factors_of_peft(W, 2))
    A[1], B[:, 1] = 0, 0
    found = recompute(W, A, B, "bfloat16")
    assert found.same
    assert found.determined
    assert found.difference < 2.0**-7
