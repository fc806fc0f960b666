"""mlx-lm's form of an adapter; what mlx-lm makes of it is shown by tests/test_serve.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fixture_data import fixture
from safetensors.numpy import load_file

from tinylora_tools.formats.serving.mlx_adapter import config_json, factor_keys
from tinylora_tools.ops.convert.lora import to_lora

pytestmark = pytest.mark.filterwarnings("ignore")


def test_no_layer_has_lora_but_by_its_name() -> None:
    found = config_json(3, ["b", "a"])
    assert found["lora_parameters"] == {"rank": 3, "scale": 1.0, "dropout": 0.0, "keys": ["a", "b"]}
    assert (found["fine_tune_type"], found["num_layers"]) == ("lora", 0)


def test_the_update_is_the_adapter_s(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    report = to_lora(case.adapter, tmp_path / "lora", base=case.base, server="mlx")
    assert {path.name for path in (tmp_path / "lora").iterdir()} == {"adapters.safetensors", "adapter_config.json"}
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["lora_parameters"]["keys"] == sorted(row["name"] for row in case.modules)
    held = load_file(tmp_path / "lora" / "adapters.safetensors")
    assert report.tensors == len(held) == 2 * len(case.modules)
    for row in case.modules:
        a, b = (held[key].astype(np.float64) for key in factor_keys(row["name"]))
        exact = case.delta(row["name"])
        assert np.abs((a @ b).T - exact).max() <= 1e-6 * np.abs(exact).max()
