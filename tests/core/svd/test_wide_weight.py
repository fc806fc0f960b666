"""A weight as an operator in a wider dtype, against the dense product of the widened weight."""

from __future__ import annotations

import pytest
import torch
from matrices import gaussian
from torch import Tensor

from tinylora_tools.core.svd import krylov, wide_weight
from tinylora_tools.core.svd.triplets import top_triplets
from tinylora_tools.core.svd.wide_weight import WideWeight, orthonormal

SHAPES = [(700, 90), (90, 700)]


def tall(W: Tensor) -> Tensor:
    """W in float64, as the operator sees it: its longer side first."""
    return W.double() if W.shape[0] >= W.shape[1] else W.double().T


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


@pytest.mark.parametrize(
    ("dtype", "work", "exponent"),
    [
        (torch.float32, torch.float32, 0),
        (torch.bfloat16, torch.float32, 120),
        (torch.bfloat16, torch.float32, -111),
        (torch.float64, torch.float64, -1000),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_are_the_weight_widened_and_scaled(
    shape: tuple[int, int], dtype: torch.dtype, work: torch.dtype, exponent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide_weight, "_BLOCK_ELEMENTS", 90 * 64)
    W = (gaussian(*shape) * 2.0**exponent).to(dtype)
    parts, blocks = [], []
    for part, block in WideWeight(W, work, exponent).blocks():
        assert block.dtype == work
        parts.append((part.start, part.stop))
        blocks.append(block.clone())  # its memory is reused
    assert len(parts) > 10
    assert parts == [(first, min(first + 64, 700)) for first in range(0, 700, 64)]
    assert torch.equal(torch.cat(blocks), (tall(W) * 2.0**-exponent).to(work))


@pytest.mark.parametrize("columns", [1, 8, 9, 24])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_the_dense_ones(shape: tuple[int, int], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_weight, "_BLOCK_ELEMENTS", 90 * 64)
    W, X = gaussian(*shape).to(torch.float16), gaussian(90, columns)
    operator, dense = WideWeight(W, torch.float64), tall(W)
    Y, Z = operator.apply(X)
    assert (Y.shape, Z.shape, Z.dtype) == ((700, columns), (90, columns), torch.float64)
    assert torch.allclose(Y, dense @ X, rtol=0, atol=1e-10)
    assert torch.allclose(Z, dense.T @ dense @ X, rtol=0, atol=1e-8)
    assert torch.allclose(operator.apply_transposed(Y), dense.T @ Y, rtol=0, atol=1e-8)


@pytest.mark.parametrize("work", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_right_vectors_by_falling_value(shape: tuple[int, int], work: torch.dtype) -> None:
    W = gaussian(*shape).float()
    V = WideWeight(W, work).right_vectors()
    assert torch.allclose(V.T @ V, torch.eye(90).double(), rtol=0, atol=1e-12)
    lengths = torch.linalg.vector_norm(tall(W) @ V, dim=0)
    assert torch.allclose(lengths, torch.linalg.svdvals(tall(W)), rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_start_is_orthonormal_and_nearer_than_a_random_one(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide_weight, "_fast_bfloat16", lambda device: True)
    scale = torch.linspace(1, 0.1, 90).double() ** 2
    W = (gaussian(700, 90) * scale).to(torch.bfloat16)
    W = W if shape[0] > shape[1] else W.T.contiguous()
    random = orthonormal(gaussian(90, 16))
    X = WideWeight(W, torch.float32).aim(random, 12)
    assert X.shape == (90, 12)
    assert torch.allclose(X.T @ X, torch.eye(12).double(), rtol=0, atol=1e-12)
    leading = torch.linalg.svd(tall(W)).Vh[:3]
    caught, before = (float(torch.linalg.vector_norm(leading @ start)) for start in (X, random[:, :12]))
    assert caught > 0.99 * 3**0.5 > before
    assert torch.equal(WideWeight(W.float(), torch.float32).aim(random, 12), random[:, :12])  # nothing is fast there
