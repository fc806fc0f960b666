"""Leading singular triplets against dense float64 algebra, and PEFT's factors against PEFT."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import TinyLoraConfig, get_peft_model
from torch import Tensor

from tinylora_tools.core.svd import krylov, wide_weight
from tinylora_tools.core.svd.triplets import Factors, match_signs, peft_factors, rounded_as_peft, top_triplets
from tinylora_tools.errors import FormatError


def with_values(rows: int, columns: int, values: Tensor) -> Tensor:
    """A random matrix with these singular values."""
    generator = torch.Generator().manual_seed(rows * 31 + columns)
    k = len(values)
    U = torch.linalg.qr(torch.randn(rows, k, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(columns, k, generator=generator, dtype=torch.float64)).Q
    return (U * values) @ V.T


def gaussian(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def counted(k: int) -> Tensor:
    return torch.arange(1, k + 1, dtype=torch.float64)


MATRICES: dict[str, Callable[[], Tensor]] = {
    "gaussian": lambda: gaussian(700, 500),
    "wide": lambda: gaussian(300, 1200),
    "low rank": lambda: with_values(800, 600, torch.tensor([5.0, 4, 3, 1, 0.5], dtype=torch.float64)),
    "power law": lambda: with_values(900, 700, counted(600) ** -0.5),
    "steep power law": lambda: with_values(700, 900, counted(600) ** -1.5),
    "exponential": lambda: with_values(500, 800, 10.0 ** (-counted(300) / 4)),
    "cluster of 4": lambda: with_values(
        800, 700, torch.cat([1 + 1e-4 * counted(4).flip(0), 0.5 * counted(300) ** -0.3])
    ),
    "cluster of 20": lambda: with_values(800, 700, torch.cat([torch.ones(20).double(), 0.5 * counted(300) ** -0.3])),
    "rank deficient": lambda: torch.cat([with_values(600, 400, counted(3)), torch.zeros(600, 100).double()], 1),
    "zero": lambda: torch.zeros(300, 400).double(),
    "identity": lambda: torch.eye(300).double(),
    "dominated": lambda: with_values(4000, 500, torch.cat([torch.tensor([300.0]).double(), counted(400) ** -0.3])),
    "shifted": lambda: gaussian(6000, 300) + 3,
    "one row": lambda: gaussian(1, 900),
    "one column": lambda: gaussian(900, 1),
    "small": lambda: gaussian(5, 7),
    "large numbers": lambda: gaussian(300, 400) * 1e18,
    "small numbers": lambda: gaussian(300, 400) * 1e-20,
}


def errors(W: Tensor, found: Factors) -> tuple[float, float, float, float]:
    """Of the values over s_1, of the vectors times their gap, of orthonormality, and the true residual over s_1."""
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    k, top = len(found.S), max(float(S[0]), 1e-300)
    around = torch.cat([torch.tensor([torch.inf]).double(), S, torch.zeros(1).double()])
    gaps = torch.minimum(around[:-2] - around[1:-1], around[1:-1] - around[2:])[:k] / top
    mine_u, mine_v = found.U.double(), found.Vh.double()
    sign = torch.where((mine_u * U[:, :k]).sum(0) < 0, -1.0, 1.0).double()
    off_u = torch.linalg.vector_norm(mine_u * sign - U[:, :k], dim=0)
    off_v = torch.linalg.vector_norm(mine_v * sign[:, None] - Vh[:k], dim=1)
    one = torch.eye(k).double()
    right = torch.linalg.vector_norm(W.double() @ mine_v.T - mine_u * found.S.double(), dim=0)
    left = torch.linalg.vector_norm(W.double().T @ mine_u - mine_v.T * found.S.double(), dim=0)
    return (
        float((found.S.double() - S[:k]).abs().max()) / top,
        float((torch.maximum(off_u, off_v) * gaps).max()),
        float(torch.maximum((mine_u.T @ mine_u - one).abs().max(), (mine_v @ mine_v.T - one).abs().max())),
        float(torch.maximum(right, left).max()) / top,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
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


def test_both_routes_and_the_rough_start_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    W = MATRICES["power law"]().to(torch.bfloat16)
    plain = top_triplets(W, 4)
    assert plain.certificate.method == "krylov"
    monkeypatch.setattr(wide_weight, "_fast_bfloat16", lambda device: False)
    slow = top_triplets(W, 4)
    assert slow.certificate.iterations > plain.certificate.iterations
    monkeypatch.setattr(krylov, "dense_cost", lambda W: 0.0)
    dense = top_triplets(W, 4)
    assert dense.certificate.method == "dense"
    for other in (slow, dense):
        assert torch.allclose(plain.U, other.U, atol=1e-6)
        assert torch.allclose(plain.Vh, other.Vh, atol=1e-6)


def test_a_basis_that_outgrows_its_memory_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    W = MATRICES["shifted"]().to(torch.bfloat16)
    monkeypatch.setattr(krylov, "_BASIS_BYTES", 0)
    monkeypatch.setattr(krylov, "dense_cost", lambda W: float("inf"))
    found = top_triplets(W, 2)
    values, vectors, _, _ = errors(W, found)
    assert found.certificate.method == "krylov"
    assert values < 1e-6
    assert vectors < 1e-5


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


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(torch.float32, 120), (torch.float32, -120), (torch.bfloat16, 120), (torch.float64, 1000), (torch.float64, -1000)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(400, 300), (300, 400)], ids=str)
def test_numbers_of_any_size_are_factored_without_a_copy(
    dtype: torch.dtype, exponent: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Powers of two change no bit but the exponent's."""
    monkeypatch.setattr(wide_weight, "_fast_bfloat16", lambda device: False)
    W = gaussian(*shape).to(dtype)
    plain, far = top_triplets(W, 2, precision="float64"), top_triplets(W * 2.0**exponent, 2, precision="float64")
    assert torch.allclose(far.S * 2.0**-exponent, plain.S, rtol=1e-12)
    assert torch.allclose(far.U, plain.U, atol=1e-10)
    assert torch.allclose(far.Vh, plain.Vh, atol=1e-10)


@pytest.mark.parametrize("route", ["krylov", "dense"])
def test_the_weight_stays_as_it_was(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(krylov, "dense_cost", lambda W: 0.0 if route == "dense" else float("inf"))
    for scale in (1.0, 2.0**60):
        W = gaussian(400, 300).float() * scale
        before = W.clone()
        assert top_triplets(W, 2).certificate.method == route
        assert torch.equal(W, before)


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


class OneLayer(torch.nn.Module):
    def __init__(self, W: Tensor) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
        self.layer.weight.data = W


def factors_of_peft(W: Tensor, r: int) -> tuple[Tensor, Tensor]:
    model = get_peft_model(OneLayer(W), TinyLoraConfig(r=r, u=2, target_modules=["layer"]))
    layer = model.base_model.model.layer
    return layer.tinylora_A["default"], layer.tinylora_B["default"]


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
