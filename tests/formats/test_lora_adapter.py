"""LoRA's keys and configuration against those that PEFT writes and reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from safetensors.torch import load_file
from small_model import TARGETS, saved_lora

from tinylora_tools.formats.lora_adapter import config_json, factor_keys
from tinylora_tools.formats.peft.config import TinyLoraConfig


def test_keys_are_peft_s(tmp_path: Path) -> None:
    keys = {key for name in TARGETS for key in factor_keys(name, embedding=name == "embed")}
    tensors = load_file(saved_lora(tmp_path) / "adapter_model.safetensors")
    assert keys == tensors.keys()
    for name, in_, out in (("embed", 5, 4), ("layer.0", 4, 6)):
        A, B = (tensors[key] for key in factor_keys(name, embedding=name == "embed"))
        assert (tuple(A.shape), tuple(B.shape)) == ((2, in_), (out, 2))


@pytest.mark.parametrize("bias", ["none", "all", "tinylora_only"])
@pytest.mark.parametrize("targets", [["v_proj", "q_proj"], r".*\.[qv]_proj"], ids=str)
def test_the_configuration_is_what_peft_writes(tmp_path: Path, bias: str, targets: Any) -> None:
    kept: dict[str, Any] = {
        "base_model_name_or_path": "some/base", "revision": "abc", "task_type": "CAUSAL_LM",
        "modules_to_save": ["score"],
    }  # fmt: skip
    if isinstance(targets, list):
        kept |= {"layers_to_transform": [1, 2], "layers_pattern": ["layers"]}
    tiny = TinyLoraConfig(**kept, bias=bias, target_modules=targets, r=2, u=64).to_json()
    found = config_json(tiny, rank=4, ranks={"model.layers.1.q_proj": 2}, targets=targets, transposed=True)
    ranks = {"model.layers.1.q_proj": 2}
    LoraConfig(
        **kept, bias=bias.replace("tinylora", "lora"), target_modules=targets, r=4, lora_alpha=4, rank_pattern=ranks,
        alpha_pattern=ranks, fan_in_fan_out=True, inference_mode=True,
    ).save_pretrained(tmp_path)  # fmt: skip
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    if isinstance(targets, list):
        written["target_modules"] = sorted(written["target_modules"])
    assert found == written


def test_peft_reads_it(tmp_path: Path) -> None:
    found = config_json({}, rank=2, ranks={}, targets=["b", "a"], transposed=False)
    (tmp_path / "adapter_config.json").write_text(json.dumps(found))
    config = LoraConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha, config.bias, config.target_modules) == (2, 2, "none", {"a", "b"})
    assert (config.rank_pattern, config.alpha_pattern, config.fan_in_fan_out) == ({}, {}, False)
