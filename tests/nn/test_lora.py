"""The current update as LoRA: exact, without touching W, the same bytes for the same v."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from live_models import CASES, built, off, ours, output, quietly
from safetensors.torch import load_file

import tinylora_tools as tl
from tinylora_tools.nn import TinyLoraConfig

ALL: dict[str, Any] = {"target_modules": "all-linear", "u": 4, "init_weights": "uniform", "init_v_bound": 0.5}


def as_lora(model: torch.nn.Module, directory: Path) -> Any:
    with quietly():
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), str(directory)).eval()


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "gemma3", "t5", "bert-cls", "mlp-5", "embedding"])
def test_peft_s_lora_computes_the_same(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], built(name)
    config = {**case.config, "target_modules": ["embed_tokens", "q_proj"]} if name == "gemma3" else case.config
    mine = ours(model, **config)
    before = {key: tensor.clone() for key, tensor in mine.state_dict().items()}
    mine.sync_lora(tmp_path / "lora")
    assert off(output(as_lora(model, tmp_path / "lora"), case.inputs), output(mine, case.inputs)) < 1e-5
    assert all(torch.equal(tensor, before[key]) for key, tensor in mine.state_dict().items())


def test_it_is_what_convert_lora_makes(tmp_path: Path) -> None:
    """Bit for bit."""
    mine = ours(built("qwen2"), **ALL)
    mine.save_pretrained(tmp_path / "a")
    built("qwen2").save_pretrained(tmp_path / "base")  # type: ignore[operator]
    tl.to_lora(tmp_path / "a", tmp_path / "there", base=tmp_path / "base")
    mine.sync_lora(tmp_path / "here")
    there, here = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("there", "here"))
    assert set(here) == set(there)
    assert all(torch.equal(here[key], tensor) for key, tensor in there.items())


def test_each_step_has_its_own_b_and_the_same_a() -> None:
    mine = ours(built("qwen2"), **ALL)
    steps: list[dict[str, torch.Tensor]] = []
    configs: list[dict[str, Any]] = []

    def receive(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        steps.append({key: tensor.clone() for key, tensor in tensors.items()})
        configs.append(config)

    v = next(iter(mine.tinylora_v.parameters()))
    before = v.detach().clone()
    mine.sync_lora(receive)
    v.data.add_(1.0)
    mine.sync_lora(receive)
    v.data.copy_(before)
    changed = [key for key in steps[0] if not torch.equal(steps[0][key], steps[1][key])]
    assert changed
    assert all(".lora_B." in key for key in changed)
    assert configs[0] == configs[1]
    assert (configs[0]["peft_type"], configs[0]["r"], configs[0]["lora_alpha"]) == ("LORA", 2, 2)
    assert all(torch.equal(tensor, steps[0][key]) for key, tensor in mine.lora_state_dict().items())


def test_several_adapters_are_stacked(tmp_path: Path) -> None:
    model, inputs = built("qwen2"), CASES["qwen2"].inputs
    mine = ours(model, **ALL)
    mine.add_adapter("b", TinyLoraConfig(**{**ALL, "target_modules": ["q_proj"], "r": 3}), init_seed=9)
    mine.set_adapter(["default", "b"])
    mine.sync_lora(tmp_path / "lora")
    assert off(output(as_lora(model, tmp_path / "lora"), inputs), output(mine, inputs)) < 1e-5
    mine.sync_lora(tmp_path / "lora", ["b"])
    mine.set_adapter("b")
    assert off(output(as_lora(model, tmp_path / "lora"), inputs), output(mine, inputs)) < 1e-5


def test_new_factors_are_seen() -> None:
    mine = ours(built("mlp-4"), target_modules=["lin0", "lin1"], u=4)
    before = mine.lora_state_dict()
    with torch.no_grad():
        mine._wrapped[0].tinylora_B["default"].mul_(2)
    after = mine.lora_state_dict()
    assert torch.equal(after["base_model.model.lin0.lora_B.weight"], 2 * before["base_model.model.lin0.lora_B.weight"])


def test_what_cannot_be_handed_over_is_refused(tmp_path: Path) -> None:
    mine = ours(built("mlp-1"), **CASES["mlp-1"].config)
    mine.save_pretrained(tmp_path / "tiny")
    with pytest.raises(tl.OutputError, match="no LoRA"):
        mine.sync_lora(tmp_path / "tiny")
    with torch.no_grad():
        next(iter(mine.tinylora_v.parameters())).fill_(1e30)
    with pytest.raises(tl.FormatError, match="in float16"):
        mine.sync_lora(tmp_path / "lora", dtype="float16")
    mine.delete_adapter("default")
    with pytest.raises(tl.MismatchError, match="no adapter is active"):
        mine.lora_state_dict()
