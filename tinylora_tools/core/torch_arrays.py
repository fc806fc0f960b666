"""Arrays as torch tensors, and torch's devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UnsupportedError
from ..wording import argument

_DTYPES = {
    "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64,
}  # fmt: skip


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The torch dtype of a floating-point NumPy or ml_dtypes dtype."""
    return _DTYPES[dtype.name]


def tensor_of(array: NDArray[Any]) -> Tensor:
    """An array as a tensor that shares its memory where it can: any dtype that both have, bfloat16 included."""
    dtype = _DTYPES.get(array.dtype.name)
    plain = array.view(np.uint16) if dtype is not None and array.dtype.itemsize == 2 else array
    if not plain.flags.writeable:
        plain = plain.copy()
    found = torch.from_numpy(plain)
    return found if dtype is None else found.view(dtype)


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array that shares its memory where it can: any dtype that both have, bfloat16 included."""
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype != torch.bfloat16:
        return plain.numpy()
    import ml_dtypes

    return plain.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)


def check_device(device: str) -> torch.device:
    """The torch device of that name.

    Raises
    ------
    UnsupportedError
        If this machine, or this build of torch, hasn't got it.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found).cpu()  # which "meta" can't do
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UnsupportedError(
            f"device {device!r} isn't usable here: {str(error).splitlines()[0]}",
            hint=f"Leave {argument('device')} out to compute on the CPU.",
        ) from None
    return found
