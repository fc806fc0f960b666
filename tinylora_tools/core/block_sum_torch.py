"""`block_sum` on a device that torch drives: the same operations in the same order, and so the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UnsupportedError
from ..wording import argument
from .block_sum import BlockSum
from .residual import Triplets
from .torch_arrays import torch_dtype


class TorchBlockAdder:
    """A BlockAdder on a torch device."""

    def __init__(self, dtype: np.dtype[Any], device: torch.device) -> None:
        if dtype == np.float64 and device.type == "mps":
            raise UnsupportedError(
                "float32 results are summed in float64, which Apple's GPUs don't have",
                hint=f"Leave {argument('device')} out to merge on the CPU: the bytes are the same.",
            )
        self._device = device
        self._dtype = torch_dtype(dtype)

    def _load(self, array: NDArray[Any]) -> torch.Tensor:
        array = np.ascontiguousarray(array)
        if array.dtype.name == "bfloat16":  # NumPy's bfloat16 is unknown to torch: hand over its bits
            return torch.from_numpy(array.view(np.int16)).to(self._device).view(torch.bfloat16)
        return torch.from_numpy(array).to(self._device)

    def add(
        self,
        W: NDArray[Any],
        left: NDArray[Any],
        right: NDArray[Any],
        out: NDArray[Any],
        *,
        triplets: Sequence[Triplets] = (),
        first: int = 0,
    ) -> BlockSum:
        weight = self._load(W).to(self._dtype)
        columns, rows = self._load(left), self._load(right)
        delta = columns[:, :1] * rows[:1]
        for k in range(1, left.shape[1]):
            delta += columns[:, k : k + 1] * rows[k : k + 1]  # two kernels: no fused multiply-add
        result = (weight + delta).to(torch_dtype(out.dtype))
        error = float(torch.sum(((result.to(self._dtype) - weight) - delta) ** 2))
        plain = result.view(torch.int16) if result.dtype == torch.bfloat16 else result
        np.copyto(out.view(np.int16) if result.dtype == torch.bfloat16 else out, plain.cpu().numpy())
        return BlockSum(
            error, float(torch.sum(weight**2)), [self._residual_parts(weight, one, first) for one in triplets]
        )

    def _residual_parts(
        self, weight: torch.Tensor, triplets: Triplets, first: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        U = self._load(triplets.U[first : first + weight.shape[0]]).to(self._dtype)  # (rows, k)
        Vh = self._load(triplets.Vh).to(self._dtype)  # (k, columns)
        gap = weight @ Vh.T - U * torch.from_numpy(triplets.S).to(self._device, self._dtype)  # (rows, k)
        right, left = torch.sum(gap**2, dim=0), U.T @ weight
        return right.cpu().numpy().astype(np.float64), left.cpu().numpy()
