"""Names of dtypes as safetensors' own writer gives them, and whether tensors hold the same values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from tinylora_tools.formats import memory_file
from tinylora_tools.formats.memory_file import MemoryFile
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.formats.tensors import (
    DTYPE_BITS,
    FLOAT_NAMES,
    dtype_name,
    fingerprint,
    float_dtype,
    numpy_dtype,
    same_values,
)

TORCH = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip


def name_by_safetensors(dtype: torch.dtype) -> str:
    content = save({"x": torch.zeros(2, dtype=dtype)})
    name: str = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["x"]["dtype"]
    return name


@pytest.mark.parametrize("dtype", TORCH, ids=str)
def test_dtypes_are_called_as_safetensors_calls_them(dtype: torch.dtype) -> None:
    name = name_by_safetensors(dtype)
    found = numpy_dtype(name)
    assert found.name == str(dtype).removeprefix("torch.")
    assert DTYPE_BITS[name] == 8 * found.itemsize == 8 * dtype.itemsize
    assert dtype_name(found) == name
    if not dtype.is_complex and dtype != torch.bool:
        bits = np.arange(1, 1 + 4 * found.itemsize, dtype=np.uint8)
        theirs = torch.from_numpy(bits.copy()).view(dtype).double()
        assert np.array_equal(bits.view(found).astype(np.float64), theirs.numpy(), equal_nan=True)


def test_floats_go_by_torch_s_names() -> None:
    for name, torch_name in FLOAT_NAMES.items():
        assert name_by_safetensors(getattr(torch, torch_name)) == name
        assert float_dtype(torch_name) == numpy_dtype(name)
    with pytest.raises(KeyError):
        float_dtype("int8")


@pytest.mark.parametrize("name", ["F4", "F6_E2M3", "F6_E3M2"])
def test_dtypes_narrower_than_a_byte_have_no_array(name: str) -> None:
    assert DTYPE_BITS[name] < 8
    with pytest.raises(KeyError):
        numpy_dtype(name)


def test_dtypes_that_safetensors_lacks_have_no_name() -> None:
    for dtype in (np.complex128, np.longdouble, "U3", ml_dtypes.int4):
        with pytest.raises(KeyError):
            dtype_name(np.dtype(dtype))


def test_values_are_compared_across_files_and_dtypes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_file, "PIECE", 1 << 22)
    x = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "x": x,
        "wide": x.double(),
        "flat": x.flatten().clone(),
        "other": x + (x == 11),
        "narrow": x.to(torch.bfloat16),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    file = read_header(tmp_path / "x.safetensors")
    copy = MemoryFile(Path("memory"), {"x": x.numpy().copy()})
    found = {name: same_values(file, name, copy, "x") for name in tensors}
    assert found == {"x": True, "wide": True, "flat": False, "other": False, "narrow": True}


def test_a_difference_in_the_last_piece_is_seen() -> None:
    one, other = np.zeros((2, 1 << 20), np.float32), np.zeros((2, 1 << 20), np.float32)
    other[-1, -1] = 1e-30
    files = [MemoryFile(Path("memory"), {"x": array}) for array in (one, other, one.copy())]
    assert len(list(files[0].pieces("x"))) == 2
    assert not same_values(files[0], "x", files[1], "x")
    assert same_values(files[0], "x", files[2], "x")


@given(
    st.sampled_from([np.float32, np.float16, np.float64, ml_dtypes.bfloat16]),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
)
def test_the_fingerprint_is_of_dtype_shape_and_bytes(dtype: type, shape: list[int]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    said = f"{np.dtype(dtype).name} {shape} ".encode() + array.tobytes()
    assert fingerprint(array) == hashlib.sha256(said).hexdigest()
    assert fingerprint(np.asfortranarray(array)) == fingerprint(array)
    assert fingerprint(array[None]) != fingerprint(array)
