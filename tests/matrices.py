"""Matrices of many spectra, how far triplets are from a dense float64 decomposition, and PEFT's factors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import TinyLoraConfig, get_peft_model
from torch import Tensor

from tinylora_tools.core.svd.triplets import Factors


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


class OneLayer(torch.nn.Module):
    def __init__(self, W: Tensor) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
        self.layer.weight.data = W


def factors_of_peft(W: Tensor, r: int) -> tuple[Tensor, Tensor]:
    model = get_peft_model(OneLayer(W), TinyLoraConfig(r=r, u=2, target_modules=["layer"]))
    layer = model.base_model.model.layer
    return layer.tinylora_A["default"], layer.tinylora_B["default"]
