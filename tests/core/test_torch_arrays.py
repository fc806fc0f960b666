"""Arrays and tensors with the same bytes, and devices that are there or refused by name."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from tinylora_tools.core.torch_arrays import array_of, check_device, tensor_of, torch_dtype
from tinylora_tools.errors import UnsupportedError

DTYPES = {
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_has_the_array_s_values_and_memory(dtype: torch.dtype) -> None:
    array = np.array([[1.5, -0.0, np.inf], [2.0**-10, -3.0, 0.25]]).astype(DTYPES[dtype])
    tensor = tensor_of(array)
    assert tensor.dtype == dtype == torch_dtype(array.dtype)
    assert tensor.tolist() == array.astype(np.float64).tolist()
    tensor[0, 0] = 4.0
    assert float(array[0, 0]) == 4.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_that_may_not_be_written_is_copied(dtype: torch.dtype) -> None:
    array = np.ones((2, 2), DTYPES[dtype])
    array.flags.writeable = False
    tensor = tensor_of(array)
    tensor[0, 0] = 4.0
    assert float(array[0, 0]) == 1.0


def test_an_array_of_a_transposed_tensor_that_is_trained() -> None:
    tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    array = array_of(tensor)
    assert array.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert array.flags.c_contiguous


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense", "xpu:3"])
def test_devices_that_are_not_here(device: str) -> None:
    with pytest.raises(UnsupportedError, match=f"device '{device}' isn't usable here: ") as caught:
        check_device(device)
    assert "\n" not in caught.value.what
    assert caught.value.hint == "Leave device out to compute on the CPU."


def test_the_cpu_is_always_here() -> None:
    assert check_device("cpu") == torch.device("cpu")
