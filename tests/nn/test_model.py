"""The public names of `nn`, and what importing them costs."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from live_models import CASES, built, ours, output

import tinylora_tools
from tinylora_tools import nn

ROOT = Path(__file__).parent.parent.parent


def test_importing_costs_what_it_must() -> None:
    code = (
        "import sys, tinylora_tools.nn; assert 'torch' not in sys.modules; tinylora_tools.nn.TinyLoraModel; "
        "print([m for m in ('transformers', 'peft', 'click', 'accelerate') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


def test_public_names_resolve() -> None:
    assert nn.__all__ == sorted(nn._HOMES)
    assert set(nn.__all__) <= set(dir(nn))
    assert all(getattr(nn, name).__doc__ for name in nn.__all__)
    assert nn.TinyLoraConfig is tinylora_tools.TinyLoraConfig
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        nn.nothing  # noqa: B018


def test_what_it_has_not_got_is_the_model_s() -> None:
    mine: Any = ours(built("qwen2"), **CASES["qwen2"].config)
    assert mine.config.model_type == "qwen2"
    assert mine.device == torch.device("cpu")
    assert mine.get_input_embeddings() is mine.model.model.embed_tokens
    assert mine.peft_config["default"].task_type == "CAUSAL_LM"
    assert mine.targeted_module_names == [
        name for name in (m for m, _ in mine.model.named_modules()) if name.endswith(("q_proj", "v_proj"))
    ]
    with pytest.raises(AttributeError):
        mine.nothing  # noqa: B018


def test_init_seeds_are_told_apart_and_nothing_global_is_touched() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    config = nn.TinyLoraConfig(target_modules="lin0", init_weights="uniform")
    one, same, other = (nn.TinyLoraModel(built("mlp-1"), config, init_seed=seed) for seed in (1, 1, 2))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    first, again, second = (model.adapter_state_dict()["base_model.tinylora_v.0"] for model in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_several_adapters_add_up() -> None:
    case = CASES["mlp-4"]
    mine = ours(built("mlp-4"), **case.config)
    mine.add_adapter("b", nn.TinyLoraConfig(**{**case.config, "init_weights": "uniform"}), init_seed=2)
    mine.set_adapter(["default", "b"])
    both = output(mine, case.inputs)
    layer = mine._wrapped[0]
    x = case.inputs["x"]
    exact = layer.base_layer(x)
    for name in ("default", "b"):
        R = (layer.vector(name)[:, None, None] * layer.projection(name)).sum(0)
        exact = exact + x @ layer.tinylora_A[name].T @ R.T @ layer.tinylora_B[name].T
    assert torch.allclose(layer(x), exact, atol=1e-6)
    mine.set_adapter("default")
    assert not torch.equal(output(mine, case.inputs), both)


def test_the_fields_are_peft_s() -> None:
    own = {name for name in peft.TinyLoraConfig.__dataclass_fields__ if name not in ("peft_type", "inference_mode")}
    assert own <= set(nn.TinyLoraConfig.__dataclass_fields__)
    for name in own - {"peft_version", "fan_in_fan_out", "modules_to_save", "layers_to_transform", "layers_pattern"}:
        assert getattr(nn.TinyLoraConfig(), name) == getattr(peft.TinyLoraConfig(), name), name


def test_the_page_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = doctest.testfile(str(ROOT / "docs" / "nn.md"), module_relative=False)
    assert result.attempted >= 40
    assert result.failed == 0
