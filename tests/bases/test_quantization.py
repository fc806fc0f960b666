"""What config.json says of quantization, and the refusals of weights that aren't plain numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from transformers import BitsAndBytesConfig, FineGrainedFP8Config, GPTQConfig, LlamaConfig, Mxfp4Config

from tinylora_tools.bases.architectures.named import from_config
from tinylora_tools.bases.quantization import (
    in_parts,
    method_of,
    model_dtype,
    plain_group,
    refuse_packed,
    settings_of,
    unread,
)
from tinylora_tools.bases.tensor_names import BaseNames
from tinylora_tools.errors import TinyLoraError, UnsupportedError
from tinylora_tools.formats.checkpoint import Checkpoint
from tinylora_tools.formats.memory_file import MemoryFile

HINT = "Use the unquantized model that it was made from; quantize what comes of it."
Q = "model.layers.0.self_attn.q_proj"


def base(config: dict[str, Any] | None = None, **weights: Any) -> Checkpoint:
    return Checkpoint(Path("base"), config, (MemoryFile(Path("base"), weights),), dict.fromkeys(weights, 0))


def named(*keys: str, config: dict[str, Any] | None = None, dtype: Any = np.int32) -> BaseNames:
    return BaseNames(base(config, **{key: np.zeros((2, 2), dtype) for key in keys}), None)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        (GPTQConfig(bits=4, dataset="c4"), "gptq"),
        (BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes"),
        (FineGrainedFP8Config(), "fp8"),
        (Mxfp4Config(), "mxfp4"),
        ({"load_in_4bit": True}, "bitsandbytes"),  # before transformers named the method
        ({}, "unknown method"),
        (None, None),
    ],
    ids=["gptq", "bitsandbytes", "fp8", "mxfp4", "older", "unknown", "none"],
)
@pytest.mark.filterwarnings("ignore")
def test_methods(settings: Any, method: str | None) -> None:
    given = {} if settings is None else {"quantization_config": settings}
    config = json.loads(LlamaConfig(**given).to_json_string())  # as save_pretrained writes it
    assert method_of(config) == method
    path, found = settings_of(config)
    assert path == (("quantization_config",) if method else ())
    assert found.get("quant_method", method) in (method, None)


def test_settings_of_a_model_inside() -> None:
    """Where a model for text and images was made of a quantized one; what older compressed-tensors wrote."""
    inner = {"quant_method": "fp8"}
    assert settings_of({"text_config": {"quantization_config": inner}}) == (
        ("text_config", "quantization_config"),
        inner,
    )
    assert settings_of({"compression_config": inner}) == (("compression_config",), inner)
    assert settings_of({"quantization_config": None}) == settings_of(None) == ((), {})


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "float32"}, "float32"),
        ({"text_config": {"dtype": "float32"}}, "float32"),
        ({"dtype": None}, "bfloat16"),
        ({"torch_dtype": "auto"}, "bfloat16"),
        (None, "bfloat16"),
    ],
)
def test_a_model_s_dtype(config: dict[str, Any] | None, dtype: str) -> None:
    assert model_dtype(config) == dtype


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
def test_floating_point_weights_pass(dtype: Any) -> None:
    refuse_packed(base(w=np.zeros((2, 2), dtype)), "w")


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.int8, "I8"), (np.uint8, "U8"), (np.int32, "I32"), (ml_dtypes.float8_e4m3fn, "F8_E4M3")]
)
@pytest.mark.parametrize(
    ("config", "by"), [(None, ""), ({"quantization_config": {"quant_method": "awq"}}, " (awq)")], ids=["none", "awq"]
)
def test_packed_weights_are_named(config: dict[str, Any] | None, by: str, dtype: Any, name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        refuse_packed(base(config, w=np.zeros((2, 2), dtype)), "w")
    assert str(caught.value) == f"base: w is stored as {name}: the base is quantized{by}"
    assert caught.value.hint == HINT


def test_scales_beside_plain_numbers_are_no_plain_weight() -> None:
    weights = {f"{Q}.weight": np.zeros((2, 2), np.float32), f"{Q}.weight_scale": np.zeros(1, np.float32)}
    with pytest.raises(UnsupportedError, match=f"{Q}.weight has {Q}.weight_scale beside it: the base is quantized"):
        refuse_packed(base(**weights), f"{Q}.weight")


@pytest.mark.parametrize("method", ["mxfp4", "bitsandbytes", "compressed-tensors"])
def test_the_way_out_by_transformers(method: str) -> None:
    config = {"quantization_config": {"quant_method": method}}
    with pytest.raises(UnsupportedError) as caught:
        refuse_packed(base(config, w=np.zeros(2, np.uint8)), "w")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"{HINT} Or dequantize it with transformers first: load it")


@pytest.mark.parametrize(
    ("key", "module"),
    [
        (f"{Q}.qweight", Q),  # GPTQ, AWQ
        (f"{Q}.weight_packed", Q),  # compressed-tensors
        (f"{Q}.W_q", Q),  # HQQ
        (f"{Q}.weight._data", Q),  # Quanto
        ("layers.0.self_attn.q_proj.qweight", Q),  # saved without the head
        (f"language_model.{Q}.qweight", Q),  # saved within another model
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", "model.layers.0.mlp.experts.gate_up_proj"),  # MXFP4
    ],
)
def test_a_weight_that_is_not_there_but_in_parts(key: str, module: str) -> None:
    names = named(key, f"{key}_scales", config={"quantization_config": {"quant_method": "such"}})
    with pytest.raises(UnsupportedError) as caught:
        plain_group(names, f"{module}.weight")
    assert caught.value.what == f"{module} is stored as {key} (I32): the base is quantized (such)"


@pytest.mark.parametrize("key", [f"{Q}_norm.qweight", "model.layers.1.self_attn.q_proj.qweight", f"{Q}.bias"])
def test_a_weight_that_is_not_there(key: str) -> None:
    """Other modules' parts, and what is no packed weight, explain nothing."""
    with pytest.raises(TinyLoraError, match="no tensor for"):
        plain_group(named(key, dtype=np.float32 if key.endswith("bias") else np.int32), f"{Q}.weight")


def test_a_plain_weight_s_place() -> None:
    assert plain_group(named(f"{Q}.weight", dtype=np.float32), f"{Q}.weight").stored == f"{Q}.weight"
    with pytest.raises(UnsupportedError, match="stored as I32"):
        plain_group(named(f"{Q}.weight"), f"{Q}.weight")


def test_modules_in_parts() -> None:
    keys = {"a.qweight": np.int32, "a.scales": np.float16, "b.weight": np.uint8, "b.weight_scale": np.uint8}
    keys |= {"c.weight": np.float32, "d.position_ids": np.int64, "e_blocks": np.uint8}
    found = base(**{key: np.zeros(2, dtype) for key, dtype in keys.items()})
    assert in_parts(found, None) == {"a": "a.qweight", "e": "e_blocks"}
    assert unread(found) == ["a.qweight", "b.weight", "b.weight_scale", "e_blocks"]


@pytest.mark.parametrize("part", ["qweight", "weight._data", "weight_packed"])
def test_modules_in_parts_have_the_model_s_names(part: str) -> None:
    """Whatever prefix the checkpoint leaves out."""
    keys = {"layers.0.mlp.up_proj." + part: np.int8, "layers.0.mlp.down_proj.weight": np.float32}
    qwen3 = from_config({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})
    found = in_parts(base(**{key: np.zeros((2, 2), dtype) for key, dtype in keys.items()}), qwen3)
    assert found == {"model.layers.0.mlp.up_proj": next(iter(keys))}


def test_a_mask_in_a_layer_makes_it_no_packed_module() -> None:
    """GPT-NeoX's checkpoints hold one for each attention, as bytes."""
    keys = {"attention.bias": np.uint8, "attention.dense.weight": np.float32, "attention.dense.bias": np.float32}
    found = base(**{key: np.zeros(2, dtype) for key, dtype in keys.items()})
    assert in_parts(found, None) == {}
