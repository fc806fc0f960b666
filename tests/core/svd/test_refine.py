"""Vectors that float32 found, refined, against dense float64 algebra."""

from __future__ import annotations

import math

import pytest
import torch
from matrices import MATRICES, errors
from torch import Tensor

from tinylora_tools.core.svd import krylov, triplets
from tinylora_tools.core.svd.krylov import Subspace, leading_subspace
from tinylora_tools.core.svd.refine import refined
from tinylora_tools.core.svd.triplets import top_triplets
from tinylora_tools.core.svd.wide_weight import WideWeight, orthonormal


def found_in_float32(
    W: Tensor, r: int, width: int = 16, block: int | None = None
) -> tuple[WideWeight, WideWeight, Subspace]:
    wide, generator = WideWeight(W, torch.float64), torch.Generator().manual_seed(1)
    narrow = wide.narrower()
    start = orthonormal(torch.randn(narrow.short, width, generator=generator, dtype=torch.float64))
    rough = leading_subspace(narrow, r, narrow.aim(start, width), block=block, whole=block is not None)
    assert isinstance(rough, Subspace)
    return wide, narrow, rough


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("r", [1, 2, 8])
@pytest.mark.parametrize(
    "name, narrow_blocks",
    [
        *(
            (name, False)
            for name in ("power law", "exponential", "cluster of 4", "cluster of 20", "dominated", "shifted")
        ),
        *((name, True) for name in ("power law", "exponential", "cluster of 4", "dominated")),
    ],
)
def test_it_is_float64_s_subspace(
    name: str, narrow_blocks: bool, r: int, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(krylov, "dense_cost", lambda W: math.inf)
    W = MATRICES[name]().to(torch.bfloat16)
    width, block = (16, None) if not narrow_blocks else (r + 4, 4) if r <= 3 else (16, r + 4)
    wide, narrow, rough = found_in_float32(W.T if transposed else W, r, width, block)
    found = refined(wide, narrow, rough, r)
    assert found is not None
    assert found.V.shape == (narrow.short, r + 1)
    dense = W.double() if (W.shape[0] >= W.shape[1]) else W.double().T
    values = torch.linalg.svdvals(dense)
    assert float((found.V.T @ found.V - torch.eye(r + 1, dtype=torch.float64)).abs().max()) < 1e-14
    assert float((torch.linalg.vector_norm(found.Y, dim=0)[:r] - values[:r]).abs().max() / values[0]) < 1e-13
    left = dense.T @ (dense @ found.V[:, :r]) - found.V[:, :r] * values[:r] ** 2
    assert float((torch.linalg.vector_norm(left, dim=0) / (values[:r] * values[0])).max()) < 1e-13
    assert torch.allclose(found.Z, dense.T @ found.Y, rtol=0.0, atol=1e-13 * float(values[0]) ** 2)


def test_most_products_are_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    W = MATRICES["power law"]().to(torch.bfloat16)
    columns: dict[torch.dtype, list[int]] = {torch.float32: [], torch.float64: []}
    apply = WideWeight.apply

    def counted(self: WideWeight, X: Tensor) -> tuple[Tensor, Tensor]:
        columns[self.work].append(X.shape[1])
        return apply(self, X)

    monkeypatch.setattr(WideWeight, "apply", counted)
    found = top_triplets(W, 2, precision="float64")
    assert found.certificate.iterations == sum(map(len, columns.values()))
    assert set(columns[torch.float64]) == {3}
    assert len(columns[torch.float64]) <= 3


def test_where_float32_does_not_help_float64_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that float32 can't tell from zero: what is asked for then is found by float64 alone."""
    values = torch.tensor([1.0, 1e-6, 1e-9], dtype=torch.float64)
    U, V = (orthonormal(torch.randn(n, 3, generator=torch.Generator().manual_seed(n)).double()) for n in (900, 700))
    W = (U * values @ V.T).float()
    wide, narrow, rough = found_in_float32(W, 2)
    assert refined(wide, narrow, rough, 2) is None
    found = top_triplets(W, 2, precision="float64")
    assert errors(W, found)[0] < 1e-13
    monkeypatch.setattr(triplets, "_refined", lambda *_: None)
    assert torch.equal(top_triplets(W, 2, precision="float64").Vh, found.Vh)


def test_a_zero_weight_has_nothing_to_refine() -> None:
    wide, narrow, rough = found_in_float32(torch.zeros(300, 200), 2)
    assert refined(wide, narrow, rough, 2) is None
