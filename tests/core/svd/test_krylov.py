"""The block Krylov iteration against dense float64 algebra."""

from __future__ import annotations

import math

import pytest
import torch
from matrices import MATRICES, errors, gaussian, with_values
from torch import Tensor

from tinylora_tools.core.svd import krylov, wide_weight
from tinylora_tools.core.svd.krylov import Basis, Ritz, Subspace, dense_cost, leading_subspace
from tinylora_tools.core.svd.triplets import top_triplets
from tinylora_tools.core.svd.wide_weight import WideWeight, orthonormal


def start_for(W: Tensor, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return orthonormal(torch.randn(min(W.shape), width, generator=generator, dtype=torch.float64))


def test_both_routes_and_the_rough_start_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    W = MATRICES["power law"]().to(torch.bfloat16)
    monkeypatch.setattr(wide_weight, "_fast_bfloat16", lambda device: True)  # whatever this CPU can do
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


@pytest.mark.parametrize("rough", [True, False])
@pytest.mark.parametrize(("name", "seed"), [("shifted", 0), ("shifted", 2), ("cluster of 20", 0)])
def test_a_basis_that_outgrows_its_memory_starts_over(
    name: str, seed: int, rough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rough start and without: where values lie close, a cycle may gain little before the next gains much."""
    W = MATRICES[name]().to(torch.bfloat16)
    monkeypatch.setattr(wide_weight, "_fast_bfloat16", lambda device: rough)
    monkeypatch.setattr(krylov, "_BASIS_BYTES", 0)
    monkeypatch.setattr(krylov, "dense_cost", lambda W: float("inf"))
    found = top_triplets(W, 2, seed=seed)
    values, vectors, _, _ = errors(W, found)
    assert found.certificate.method == "krylov"
    assert values < 1e-6
    assert vectors < 1e-5


@pytest.mark.parametrize("transposed", [False, True])
def test_the_subspace_holds_the_leading_vectors_and_true_products(transposed: bool) -> None:
    W = MATRICES["exponential"]().T.contiguous().float()
    found = leading_subspace(WideWeight(W.T if transposed else W, torch.float32), 3, start_for(W, 16))
    assert isinstance(found, Subspace)
    wide, V = W.double(), found.V
    assert float((V.T @ V - torch.eye(16).double()).abs().max()) < 1e-12
    exact = torch.linalg.svd(wide, full_matrices=False)
    assert float((exact.Vh[:3] @ V @ V.T - exact.Vh[:3]).abs().max()) < 1e-5
    top = float(exact.S[0])
    assert float((found.Y - wide @ V).abs().max()) < 1e-6 * top
    assert float((found.Z - wide.T @ (wide @ V)).abs().max()) < 1e-6 * top**2


def test_it_gives_up_where_the_dense_route_is_faster() -> None:
    """A flat spectrum converges slowly, and a weight this narrow has a small Gram matrix."""
    W = gaussian(2000, 300).float()
    passes = leading_subspace(WideWeight(W, torch.float32), 16, start_for(W, 24))
    assert isinstance(passes, int)
    assert passes >= 1


def test_a_basis_grows_by_orthonormal_blocks_until_nothing_new_is_left() -> None:
    W = with_values(90, 60, torch.tensor([4.0, 3, 2, 1, 0.5, 0.25], dtype=torch.float64))
    wide, basis, X = WideWeight(W, torch.float64), Basis(60, 60, torch.device("cpu")), start_for(W, 4)
    columns, blocks = torch.empty(60, 0, dtype=torch.float64), []
    while X.shape[1]:
        assert float((columns.T @ X).abs().max() if columns.shape[1] else 0.0) < 1e-12
        columns = torch.cat([columns, X], 1)
        assert float((columns.T @ columns - torch.eye(columns.shape[1]).double()).abs().max()) < 1e-12
        basis.add(X, *wide.apply(X))
        blocks.append(X.shape[1])
        X = basis.next_block(basis.ritz(4), 1e-6, 1e-6)
    assert blocks == [4, 4, 2]  # a random start and the six directions that W knows
    assert basis.size == 10
    ritz = basis.ritz(6)
    assert torch.allclose(ritz.S, torch.tensor([4.0, 3, 2, 1, 0.5, 0.25], dtype=torch.float64), rtol=1e-10)
    assert float(ritz.residuals(1e-12).max()) < 1e-10


def test_vectors_that_are_found_are_not_gone_on_with() -> None:
    W = with_values(90, 60, torch.tensor([4.0, 3, 2, 1, 0.5, 0.25], dtype=torch.float64))
    first = torch.linalg.svd(W).Vh[:2].T
    wide, basis = WideWeight(W, torch.float64), Basis(60, 60, torch.device("cpu"))
    X = orthonormal(torch.cat([first, start_for(W, 3)], 1))
    basis.add(X, *wide.apply(X))
    after = basis.next_block(basis.ritz(5), 1e-6, 1e-6)
    assert after.shape == (60, 3)
    assert float((X.T @ after).abs().max()) < 1e-12


def test_residuals_of_values_that_count_as_zero_are_zero() -> None:
    S, norms = torch.tensor([4.0, 2.0, 1e-9], dtype=torch.float64), torch.tensor([0.8, 0.4, 0.1], dtype=torch.float64)
    residuals = Ritz(S, torch.diag(norms), norms, torch.eye(3).double()).residuals(1e-6)
    assert residuals.tolist() == pytest.approx([0.8 / 16, 0.4 / 8, 0.0])


@pytest.mark.parametrize(
    ("work", "shape", "fits"),
    [
        (torch.float32, (9000, 3600), True),  # 24 bytes for each entry of the Gram matrix
        (torch.float32, (9000, 3700), False),
        (torch.float64, (4400, 3000), True),  # and of the weight itself
        (torch.float64, (4500, 3000), False),
    ],
    ids=str,
)
def test_the_dense_route_costs_too_much_where_its_memory_would(
    work: torch.dtype, shape: tuple[int, int], fits: bool
) -> None:
    W = WideWeight(torch.zeros(1, 1, dtype=torch.bfloat16).expand(shape), work)
    assert math.isfinite(dense_cost(W)) == fits
