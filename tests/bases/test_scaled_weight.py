"""Weights in 8-bit floats with scales, as numbers: those of transformers' own dequantization, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_bases import to_blocks
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from tinylora_tools.bases.scaled_weight import ScaledWeight, companions_of
from tinylora_tools.core.torch_arrays import tensor_of
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.formats.tensors import DTYPE_OF

SCALES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e8m0fnu]


def scaled(
    tmp_path: Path, weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, int], dtype: str = "bfloat16"
) -> ScaledWeight:
    save_file({"a.weight": weight, "a.scale": scale}, tmp_path / "model.safetensors")
    file = read_header(tmp_path / "model.safetensors")
    return ScaledWeight("a.weight", file, file, "a.scale", block, DTYPE_OF[dtype], ("a.scale",))


def as_transformers(weight: torch.Tensor, scale: torch.Tensor, dtype: str) -> torch.Tensor:
    found: torch.Tensor = Fp8Dequantize(None)._dequantize_one(weight, scale, getattr(torch, dtype))
    return found


def same(found: Any, expected: torch.Tensor) -> bool:
    tensor = tensor_of(found)
    return tensor.dtype == expected.dtype and torch.equal(tensor, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("scale_dtype", SCALES, ids=str)
def test_a_weight_is_what_transformers_makes_of_it(scale_dtype: torch.dtype, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight, scale = to_blocks(torch.randn(256, 384), scale=scale_dtype)
    found = scaled(tmp_path, weight, scale, (128, 128), dtype)
    assert same(found.read("a.weight"), as_transformers(weight, scale, dtype))
    info = found.tensors["a.weight"]
    assert (info.dtype, info.shape, info.nbytes) == (DTYPE_OF[dtype], (256, 384), found.read("a.weight").nbytes)
    assert b"".join(found.pieces("a.weight")) == found.read("a.weight").tobytes()


def test_every_byte_and_every_exponent(tmp_path: Path) -> None:
    """All 256 values of E4M3 and of E5M2, by all 256 scales of E8M0, as a dtype and as bytes."""
    every = torch.arange(256, dtype=torch.uint8)
    for of_weight in (torch.float8_e4m3fn, torch.float8_e5m2):
        for of_scale in (torch.float8_e8m0fnu, torch.uint8):
            weight, scale = every.repeat(256, 1).view(of_weight), every[:, None].clone().view(of_scale)
            found = tensor_of(scaled(tmp_path, weight, scale, (1, 256), "float32").read("a.weight"))
            expected = as_transformers(weight, scale, "float32")
            assert torch.equal(found.isnan(), expected.isnan())
            assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_for_a_whole_weight(shape: tuple[int, ...], tmp_path: Path) -> None:
    weight, scale = torch.randn(48, 40).to(torch.float8_e4m3fn), torch.full(shape, 0.37, dtype=torch.bfloat16)
    found = scaled(tmp_path, weight, scale, (48, 40)).read("a.weight")
    assert same(found, as_transformers(weight, scale, "bfloat16"))


def test_experts_in_one_tensor(tmp_path: Path) -> None:
    weight, scale = torch.randn(3, 64, 96).to(torch.float8_e4m3fn), torch.rand(3, 2, 3)
    found = scaled(tmp_path, weight, scale, (32, 32))
    assert same(found.read("a.weight"), as_transformers(weight, scale, "bfloat16"))
    raw = found.weight.read("a.weight").view(np.uint8).reshape(-1, 96)
    expected = as_transformers(weight, scale, "float32").numpy().reshape(-1, 96)
    assert found.products(raw[50:], 50, np.empty((142, 96), np.float32)).tobytes() == expected[50:].tobytes()
    one = torch.full((1,), 0.5)
    assert same(scaled(tmp_path, weight, one, (64, 96)).read("a.weight"), as_transformers(weight, one, "bfloat16"))


def test_large_weights_are_read_in_parts(tmp_path: Path) -> None:
    weight, scale = torch.randn(300, 7000).to(torch.float8_e4m3fn), torch.rand(3, 55)
    found = scaled(tmp_path, weight, scale, (128, 128)).read("a.weight")
    scales = scale.repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)[:, :7000]
    assert same(found, (weight.float() * scales).bfloat16())


def test_in_memory(tmp_path: Path) -> None:
    weight, scale = to_blocks(torch.randn(64, 64), (32, 32))
    found = scaled(tmp_path, weight, scale, (32, 32))
    before, held = found.read("a.weight"), found.in_memory()
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert held.read("a.weight").tobytes() == before.tobytes()
    assert held.path == found.path


def test_what_belongs_to_such_weights(tmp_path: Path) -> None:
    weight, scale = to_blocks(torch.randn(64, 64), (32, 32))
    found = scaled(tmp_path, weight, scale, (32, 32))
    checkpoint = read_checkpoint(tmp_path)
    assert companions_of(checkpoint) == set()
    assert companions_of(checkpoint.reading({"a.weight": found})) == {"a.scale"}
