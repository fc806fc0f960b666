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


def by_columns(W: Tensor) -> Tensor:
    """The same matrix with its columns each in one piece of memory, as a Conv1D's weight is."""
    return W.T.contiguous().T


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
@pytest.mark.parametrize("columnwise", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_are_the_weight_widened_and_scaled(
    shape: tuple[int, int],
    columnwise: bool,
    dtype: torch.dtype,
    work: torch.dtype,
    exponent: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of its rows or columns that lie in one piece."""
    monkeypatch.setattr(wide_weight, "_BLOCK_ELEMENTS", 1)
    W = (gaussian(*shape) * 2.0**exponent).to(dtype)
    parts, blocks = [], []
    for part, block in WideWeight(by_columns(W) if columnwise else W, work, exponent).blocks():
        assert block.dtype == work
        parts.append((part.start, part.stop))
        blocks.append(block.clone())  # its memory is reused
    lines = (W.T if columnwise else W).double()
    assert parts == [(first, min(first + 32, len(lines))) for first in range(0, len(lines), 32)]
    assert torch.equal(torch.cat(blocks), (lines * 2.0**-exponent).to(work))


@pytest.mark.parametrize("columns", [1, 8, 9, 24])
@pytest.mark.parametrize("columnwise", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_the_dense_ones(
    shape: tuple[int, int], columnwise: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide_weight, "_BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(wide_weight, "_ADDED_UP", 64)
    W, X, U = gaussian(*shape).to(torch.float16), gaussian(90, columns), gaussian(700, columns)
    operator, dense = WideWeight(by_columns(W) if columnwise else W, torch.float64), tall(W)
    Y, Z = operator.apply(X)
    assert (Y.shape, Z.shape, Z.dtype) == ((700, columns), (90, columns), torch.float64)
    assert torch.allclose(Y, dense @ X, rtol=0, atol=1e-10)
    assert torch.allclose(Z, dense.T @ dense @ X, rtol=0, atol=1e-8)
    assert torch.allclose(operator.apply_transposed(Y), dense.T @ Y, rtol=0, atol=1e-8)
    image, back = operator.products(X, U)
    assert (image.dtype, back.dtype) == (torch.float64, torch.float64)
    assert torch.allclose(image, dense @ X, rtol=0, atol=1e-10)
    assert torch.allclose(back, dense.T @ U, rtol=0, atol=1e-9)


@pytest.mark.parametrize("columnwise", [False, True])
@pytest.mark.parametrize("shape", [(9000, 600), (600, 9000)], ids=str)
def test_products_in_float32_are_as_near_as_its_rounding(shape: tuple[int, int], columnwise: bool) -> None:
    """However many summands there are: the error, over ||W|| ||x||, is two units of float32's rounding at most."""
    W, X, U = gaussian(*shape).bfloat16(), orthonormal(gaussian(600, 8)), orthonormal(gaussian(9000, 8))
    operator, dense = WideWeight(by_columns(W) if columnwise else W, torch.float32), tall(W)
    top = float(torch.linalg.matrix_norm(dense, 2))
    Y, Z = operator.apply(X)
    found = [Y, Z, *operator.products(X, U)]
    exact = [dense @ X, dense.T @ (dense @ X), dense @ X, dense.T @ U]
    for one, other, scale in zip(found, exact, (top, top**2, top, top), strict=True):
        off = torch.linalg.vector_norm(one.double() - other, dim=0)
        assert float(off.max()) <= 2.0 * torch.finfo(torch.float32).eps * scale


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
