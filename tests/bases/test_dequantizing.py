"""Which weights of a base are read as what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tinylora_tools.bases.dequantizing import dequantizing
from tinylora_tools.bases.scaled_weight import ScaledWeight
from tinylora_tools.formats.checkpoint import Checkpoint
from tinylora_tools.formats.memory_file import MemoryFile

E4M3, E8M0, BF16 = (np.dtype(getattr(ml_dtypes, name)) for name in ("float8_e4m3fn", "float8_e8m0fnu", "bfloat16"))
FP8: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
COMPRESSED: dict[str, Any] = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}
Shape = tuple[int, ...]


def read(
    settings: dict[str, Any] | None, /, dtype: str | None = "bfloat16", **tensors: tuple[Shape, Any]
) -> Checkpoint:
    """A base with module a's tensors of these shapes and dtypes, by their last names."""
    arrays = {f"a.{name}": np.ones(shape, np.float32).astype(kind) for name, (shape, kind) in tensors.items()}
    config = {"dtype": dtype, **({} if settings is None else {"quantization_config": settings})}
    file = MemoryFile(Path("base"), arrays)
    return dequantizing(Checkpoint(Path("base"), config, (file,), dict.fromkeys(arrays, 0)))


@pytest.mark.parametrize(
    ("settings", "name", "grid", "scale", "block"),
    [
        (FP8, "weight_scale_inv", (2, 2), np.float32, (128, 128)),
        (FP8, "weight_scale_inv", (2, 2), E8M0, (128, 128)),  # DeepSeek-V3.1 on
        (FP8, "scale", (2, 2), E8M0, (128, 128)),  # DeepSeek-V4
        (FP8, "qscale_weight", (), np.float32, (200, 256)),  # Mistral Large 4
        ({**FP8, "weight_block_size": None}, "weight_scale_inv", (), BF16, (200, 256)),  # Ministral 3
        ({"quant_method": "fp8"}, "weight_scale_inv", (2, 2), np.float32, (128, 128)),
        (None, "weight_scale_inv", (2, 2), np.float32, (128, 128)),
        ({**FP8, "weight_block_size": [1, 32]}, "weight_scale_inv", (200, 8), np.uint8, (1, 32)),
        (COMPRESSED, "weight_scale", (1,), BF16, (200, 256)),
        (COMPRESSED, "weight_scale", (200, 1), BF16, (1, 256)),
        (
            {**COMPRESSED, "config_groups": {"group_0": {"weights": {"block_structure": [128, 64]}}}},
            "weight_scale", (2, 4), BF16, (128, 64),
        ),
    ],
)  # fmt: skip
def test_forms(settings: dict[str, Any] | None, name: str, grid: Shape, scale: Any, block: Shape) -> None:
    base = read(settings, weight=((200, 256), E4M3), **{name: (grid, scale)})
    found = base.source("a.weight")
    assert isinstance(found, ScaledWeight)
    assert (found.block, found.companions) == (block, (f"a.{name}",))
    assert (base.info("a.weight").dtype, base.stored("a.weight").dtype) == ("BF16", "F8_E4M3")
    assert base.read("a.weight").dtype == BF16


@pytest.mark.parametrize(
    ("settings", "tensors"),
    [
        (FP8, {}),  # no scale
        (FP8, {"weight_scale": ((2, 2), np.float32)}),  # another method's
        (FP8, {"weight_scale_inv": ((3, 2), np.float32)}),  # fits no blocks
        (FP8, {"weight_scale_inv": ((2, 2), np.int32)}),
        (FP8, {"weight_scale_inv": ((2, 2), np.float32), "scale": ((2, 2), np.float32)}),  # which of the two?
        (COMPRESSED, {"weight_scale_inv": ((2, 2), np.float32)}),
        (COMPRESSED, {"weight_scale": ((1,), BF16), "weight_zero_point": ((1,), np.int8)}),
        ({**COMPRESSED, "transform_config": {"config_groups": {"R1": {}}}}, {"weight_scale": ((1,), BF16)}),
        ({"quant_method": "modelopt"}, {"weight_scale": ((), np.float32)}),
        ({"quant_method": "fbgemm_fp8"}, {"weight_scale": ((200, 1), np.float32)}),
    ],
)
def test_what_stays_as_it_is(settings: dict[str, Any], tensors: dict[str, tuple[Shape, Any]]) -> None:
    base = read(settings, weight=((200, 256), E4M3), **tensors)
    assert not base.held
    assert base.info("a.weight").dtype == "F8_E4M3"


def test_activations_scales_go_with_the_weight() -> None:
    one = ((), np.float32)
    base = read(FP8, weight=((64, 64), E4M3), weight_scale_inv=one, activation_scale=one, k_scale=one)
    found = base.source("a.weight")
    assert isinstance(found, ScaledWeight)
    assert found.companions == ("a.weight_scale_inv", "a.activation_scale")


def test_experts_in_one_tensor() -> None:
    base = read(FP8, gate_up_proj=((2, 128, 256), E4M3), gate_up_proj_scale_inv=((2, 1, 2), np.float32))
    assert base.info("a.gate_up_proj").dtype == "BF16"


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "F16"), ("float32", "F32"), (None, "BF16")])
def test_the_dtype_is_the_model_s(dtype: str | None, expected: str) -> None:
    base = read(FP8, dtype, weight=((64, 64), E4M3), weight_scale_inv=((1, 1), np.float32))
    assert base.info("a.weight").dtype == expected


def test_other_weights_are_read_as_they_are_stored() -> None:
    base = read(FP8, weight=((64, 64), BF16), weight_scale_inv=((1, 1), np.float32))
    assert not base.held
