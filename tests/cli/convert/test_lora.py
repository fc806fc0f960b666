"""`tinylora convert lora` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_data import fixture
from safetensors.numpy import load_file

Run = Callable[..., Any]


@pytest.mark.parametrize(
    "option", [["--exact"], ["--save-projection"], ["--adapter-dtype", "bf16"], ["--v-dtype", "bf16"]]
)
def test_other_forms_options_are_wrong_usage(complaint: Callable[..., str], option: list[str]) -> None:
    adapter = fixture("peft020-tiny").adapter
    assert f"No such option '{option[0]}'" in complaint(2, "convert", "lora", adapter, "-o", "OUT", *option)


def test_two_adapters_become_one_of_their_scaled_sum(tinylora: Run, tmp_path: Path) -> None:
    case, out = fixture("peft021-layers"), tmp_path / "lora"
    arguments = ["convert", "lora", case.adapter, case.adapter, "--base", case.base, "--scale", 2, "--scale", -0.5]
    text = tinylora(*arguments, "-o", out)
    assert text.code == 0
    assert text.out.splitlines()[1] == "  6 modules, rank 4, float32"
    stored = load_file(out / "adapter_model.safetensors")
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"] / config["r"]) == ("LORA", 4, 1.0)
    for row in case.modules:
        A, B = (stored[f"base_model.model.{row['name']}.lora_{part}.weight"].astype(np.float64) for part in "AB")
        np.testing.assert_allclose(B @ A, 1.5 * case.delta(row["name"]), rtol=0, atol=1e-6 * np.abs(B @ A).max())


def test_what_a_server_cannot_take_is_refused(complaint: Callable[..., str]) -> None:
    case = fixture("peft021-bias-all")
    said = complaint(1, "convert", "lora", case.adapter, "--base", case.base, "-o", "OUT", "--for", "vllm")
    assert "vLLM takes neither biases nor modules_to_save in a LoRA adapter" in said
    assert f"`tinylora merge {case.adapter} -o MERGED`" in said
