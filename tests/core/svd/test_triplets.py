"""Leading singular triplets against dense float64 algebra, and PEFT's factors against PEFT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matrices import MATRICES, counted, errors, factors_of_peft, gaussian, with_values
from torch import Tensor

from tinylora_tools.core.svd import wide_weight
from tinylora_tools.core.svd.triplets import (
    Certificate,
    Factors,
    library_triplets,
    match_signs,
    peft_factors,
    rounded_as_peft,
    top_triplets,
)
from tinylora_tools.errors import FormatError


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("name", MATRICES)
def test_triplets_are_those_of_a_dense_decomposition(name: str, dtype: torch.dtype) -> None:
    W = MATRICES[name]().to(dtype)
    if not bool(torch.isfinite(W).all()):
        pytest.skip(f"{dtype} doesn't hold such numbers")
    for r in (1, 2, 8, 16):
        found = top_triplets(W, r)
        k = min(r, *W.shape)
        assert (found.U.shape, found.S.shape, found.Vh.shape) == ((W.shape[0], k), (k,), (k, W.shape[1]))
        values, vectors, orthonormal, residual = errors(W, found)
        assert values < 1e-6
        assert vectors < 1e-5
        assert orthonormal < 1e-6
        # the certificate tells the truth, up to the rounding of what is returned to float32
        assert residual <= max(found.certificate.residuals) + 5e-7


@pytest.mark.parametrize("name", MATRICES)
def test_float64_is_as_accurate_as_it_says(name: str) -> None:
    W = MATRICES[name]().to(torch.float32)
    found = top_triplets(W, 8, precision="float64")
    values, vectors, orthonormal, _ = errors(W, found)
    resolved = float(found.S[-1]) > 1e-7 * float(found.S[0])
    assert values < (1e-13 if resolved else 1e-8)
    assert vectors < (1e-12 if resolved else 1e-8)
    assert orthonormal < 1e-12


@pytest.mark.parametrize("wide", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("name", ["power law", "exponential", "cluster of 4", "dominated"])
def test_a_beginning_that_is_near_shortens_and_one_that_misleads_does_not_mislead(
    name: str, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide_weight, "_fast_bfloat16", lambda device: False)  # which shortens, too
    W = MATRICES[name]().to(torch.bfloat16)
    W = W.T.contiguous() if wide else W
    U, _, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    alone = top_triplets(W, 2)
    beginnings = {
        "rounded": (Vh[:2].to(torch.bfloat16), U[:, :2].to(torch.bfloat16)),
        "the third and the fourth": (3.0 * Vh[2:4], U[:, 2:4]),
        "one of them nothing": (Vh[:2] * torch.tensor([[1.0], [0.0]]), U[:, :2] * torch.tensor([1.0, 0.0])),
        "the last": (Vh[-1:], U[:, -1:]),
    }
    for what, near in beginnings.items():
        found = top_triplets(W, 2, near=near)
        values, vectors, orthonormal, residual = errors(W, found)
        assert values < 1e-6, what
        assert vectors < 1e-5, what
        assert orthonormal < 1e-6, what
        assert residual <= max(found.certificate.residuals) + 5e-7, what
        assert found.certificate.gaps == pytest.approx(alone.certificate.gaps, abs=1e-3), what
        if what == "rounded" and name != "exponential":  # three passes find that anyhow
            assert found.certificate.iterations < alone.certificate.iterations


def test_signs_follow_the_convention() -> None:
    for W in (gaussian(300, 200), gaussian(200, 300)):
        for row in top_triplets(W, 5).Vh:
            assert row[row.abs().argmax()] > 0


def test_signs_are_matched_to_stored_factors_not_fixed() -> None:
    found = top_triplets(gaussian(300, 200), 3)
    sign = torch.tensor([1.0, -1.0, -1.0])
    A, B = found.Vh * sign[:, None], found.U * sign
    matched = match_signs(found, A, B)
    assert torch.equal(matched.U, B)
    assert torch.equal(matched.Vh, A)


def test_says_which_vectors_the_weight_does_not_determine() -> None:
    alone = with_values(600, 500, torch.tensor([4.0, 2, 2, 1], dtype=torch.float64)).float()
    certificate = top_triplets(alone, 3).certificate
    assert certificate.undetermined == (1, 2)
    # the neighbour may be the triplet after the last
    assert top_triplets(alone, 2).certificate.undetermined == (1,)
    assert top_triplets(alone, 1).certificate.undetermined == ()
    assert top_triplets(torch.zeros(30, 40), 2).certificate.undetermined == (0, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_numbers_that_are_none(value: float) -> None:
    W = torch.ones(40, 30)
    W[3, 4] = value
    with pytest.raises(FormatError, match="1 of 1200 entries are NaN or infinite"):
        top_triplets(W, 2)


@pytest.mark.parametrize("shape", [(0, 4), (3,), (2, 2, 2)])
def test_refuses_what_is_no_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="no singular triplets"):
        top_triplets(torch.ones(shape), 1)


def units_apart(one: Tensor, other: Tensor) -> Tensor:
    """Distance in bfloat16's units in the last place."""
    return (one.to(torch.bfloat16).view(torch.int16).int() - other.to(torch.bfloat16).view(torch.int16).int()).abs()


@pytest.mark.parametrize("shape", [(896, 896), (300, 1100)])
def test_peft_factors_are_peft_s_where_gaps_are_wide(shape: tuple[int, int]) -> None:
    values = torch.cat([torch.tensor([8.0, 5, 3, 2], dtype=torch.float64), counted(200) ** -0.3])
    W = with_values(*shape, values).to(torch.bfloat16)
    A, B = factors_of_peft(W, 4)
    found = top_triplets(W, 4)
    assert min(found.certificate.gaps) > 0.05
    found = match_signs(found, A, B)
    for mine, theirs in zip(rounded_as_peft(found, W.dtype), (A, B), strict=True):
        assert mine.dtype == theirs.dtype == torch.float32
        apart = units_apart(mine, theirs)
        assert int(apart.max()) <= 1
        assert float((apart > 0).float().mean()) <= 0.005
    for mine, theirs in zip(peft_factors(W, 4), (A, B), strict=True):  # signs aside, which are a convention
        assert int(units_apart(mine.abs(), theirs.abs()).max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_roots_are_the_nearest_numbers_on_every_processor(dtype: torch.dtype) -> None:
    """torch's float32 root isn't, where MKL meets an AMD processor; NumPy's is the processor's own."""
    S = (torch.rand(5000, generator=torch.Generator().manual_seed(1)) * 100).to(dtype)
    none = Certificate((), (), (), "krylov", 0)
    A, B = rounded_as_peft(Factors(torch.ones(1, 5000), S, torch.ones(5000, 1), none, S), dtype)
    nearest = torch.from_numpy(np.sqrt(S.float().numpy())).to(dtype).float()
    assert torch.equal(A[:, 0], nearest)
    assert torch.equal(B[0], nearest)


def test_where_gaps_are_narrow_the_noise_is_peft_s() -> None:
    """Against float64, our factors are the closer ones, and the distance is float32's noise over the gap."""
    values = torch.cat([torch.tensor([1.002, 1.0], dtype=torch.float64), 0.5 * counted(300) ** -0.3])
    W = with_values(700, 600, values).to(torch.bfloat16)
    A, _ = factors_of_peft(W, 2)
    exact = torch.linalg.svd(W.double(), full_matrices=False)
    gap = float((exact.S[0] - exact.S[1]) / exact.S[0])
    found = top_triplets(W, 2)
    theirs = torch.linalg.svd(W.float(), full_matrices=False).Vh[:2]

    def off(Vh: Tensor) -> float:
        sign = torch.sign((Vh.double() * exact.Vh[:2]).sum(1))
        return float(torch.linalg.vector_norm(Vh.double() * sign[:, None] - exact.Vh[:2], dim=1).max())

    assert off(found.Vh) <= max(off(theirs), 2e-7)
    assert off(found.Vh) <= 1e-6 / gap
    mine, _ = rounded_as_peft(match_signs(found, A, factors_of_peft(W, 2)[1]), W.dtype)
    assert float(torch.linalg.vector_norm(mine - A) / torch.linalg.vector_norm(A)) <= 2**-8 + 1e-5 / gap


def test_the_library_s_own_triplets_keep_its_signs() -> None:
    W = gaussian(40, 60).to(torch.bfloat16)
    exact = torch.linalg.svd(W.float(), full_matrices=False)
    U, S, Vh = library_triplets(W, 3)
    assert torch.equal(U, exact.U[:, :3])
    assert torch.equal(S, exact.S[:3])
    assert torch.equal(Vh, exact.Vh[:3])
    with pytest.raises(FormatError, match="1 of 4 entries are NaN or infinite"):
        library_triplets(torch.tensor([[1.0, float("-inf")], [0.0, 2.0]]), 1)


def test_the_spectrum_s_first_values_are_exact_and_the_others_lower_bounds() -> None:
    W = MATRICES["power law"]().float()
    found = top_triplets(W, 3)
    S = torch.linalg.svdvals(W.double())[: len(found.spectrum)]
    spectrum = torch.tensor(found.spectrum, dtype=torch.float64)
    assert len(spectrum) > 3
    assert float((spectrum[:3] - S[:3]).abs().max()) < 1e-6 * float(S[0])
    assert bool((spectrum <= S * (1 + 1e-6)).all())


def test_the_same_weight_gives_the_same_bits() -> None:
    W = MATRICES["gaussian"]().to(torch.bfloat16)
    one, other = top_triplets(W, 4), top_triplets(W.clone(), 4)
    assert torch.equal(one.U, other.U)
    assert torch.equal(one.S, other.S)
    assert torch.equal(one.Vh, other.Vh)
