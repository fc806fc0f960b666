"""Quantized bases are refused by the name of their method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from transformers import BitsAndBytesConfig, GPTQConfig, LlamaConfig

from tinylora_tools.bases.quantization import refuse_packed, refuse_quantized
from tinylora_tools.errors import UnsupportedError
from tinylora_tools.formats.checkpoint import Checkpoint
from tinylora_tools.formats.memory_file import MemoryFile

HINT = "Use the unquantized model that it was made from; quantize what comes of it."


def base(config: dict[str, Any] | None = None, **weights: Any) -> Checkpoint:
    return Checkpoint(Path("base"), config, (MemoryFile(Path("base"), weights),), dict.fromkeys(weights, 0))


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        (GPTQConfig(bits=4, dataset="c4"), "gptq"),
        (BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes"),
        ({"load_in_4bit": True}, "bitsandbytes"),  # before transformers named the method
        ({}, "unknown method"),
    ],
    ids=["gptq", "bitsandbytes", "older", "unknown"],
)
@pytest.mark.filterwarnings("ignore")
def test_each_method_is_named(settings: Any, method: str) -> None:
    config = json.loads(LlamaConfig(quantization_config=settings).to_json_string())  # as save_pretrained writes it
    with pytest.raises(UnsupportedError) as caught:
        refuse_quantized(base(config))
    assert str(caught.value) == f"base: the base is quantized ({method})"
    assert caught.value.hint == HINT


def test_plain_bases_pass() -> None:
    refuse_quantized(base())
    refuse_quantized(base(LlamaConfig().to_dict()))
    refuse_quantized(base({"quantization_config": None}))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
def test_floating_point_weights_pass(dtype: Any) -> None:
    refuse_packed(base(w=np.zeros((2, 2), dtype)), "w")


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.int8, "I8"), (np.uint8, "U8"), (np.int32, "I32"), (ml_dtypes.float8_e4m3fn, "F8_E4M3")]
)
def test_packed_weights_are_named(dtype: Any, name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        refuse_packed(base(w=np.zeros((2, 2), dtype)), "w")
    assert str(caught.value) == f"base: w is stored as {name}: the base is quantized"
    assert caught.value.hint == HINT
