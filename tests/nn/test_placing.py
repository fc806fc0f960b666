"""Adapters into a model and out of it: each is counted for itself, and what is refused leaves the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from live_models import CASES, DeepMLP, built, by_peft, loaded_by_peft, off, ours, output, saved
from safetensors.torch import load_file, save_file

from tinylora_tools import MismatchError
from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel

FOUR: dict[str, Any] = {"target_modules": ["lin0", "lin1", "lin2", "lin3"], "u": 4, "init_v_bound": 0.5}
TWO: dict[str, Any] = {"target_modules": ["lin1", "lin2"], "u": 4, "weight_tying": 0.4, "init_v_bound": 0.5}
X = {"x": torch.linspace(-1, 1, 20).reshape(2, 10)}


def deep() -> DeepMLP:
    torch.manual_seed(0)
    return DeepMLP()


def added(mine: TinyLoraModel, name: str, config: dict[str, Any]) -> None:
    mine.add_adapter(name, TinyLoraConfig(**{"r": 2, "init_weights": "uniform", **config}), init_seed=8)
    mine.set_adapter(name)


def alone(config: dict[str, Any]) -> TinyLoraModel:
    return TinyLoraModel(deep(), TinyLoraConfig(**{"r": 2, "init_weights": "uniform", **config}), init_seed=8)


@pytest.mark.parametrize("how", ["added", "deleted and added again", "a regex"])
def test_a_second_adapter_is_as_if_it_were_the_first(how: str, tmp_path: Path) -> None:
    config = {**TWO, "target_modules": r"lin[12](\.base_layer)?"} if how == "a regex" else TWO
    mine = ours(deep(), **FOUR)
    name = "b"
    if how == "deleted and added again":
        mine.delete_adapter("default")
        name = "default"
    added(mine, name, config)
    control = alone(config)
    assert torch.equal(output(mine, X), output(control, X))
    here, there = mine.adapter_state_dict(name), control.adapter_state_dict()
    assert set(here) == set(there)
    assert all(torch.equal(here[key], tensor) for key, tensor in there.items())
    mine.save_pretrained(tmp_path, selected_adapters=[name])
    directory = tmp_path if name == "default" else tmp_path / name
    assert torch.equal(output(TinyLoraModel.from_pretrained(deep(), directory), X), output(control, X))
    assert off(output(loaded_by_peft(deep(), directory), X), output(control, X)) < 1e-6


def test_a_second_adapter_on_a_wrapped_conv1d() -> None:
    """PEFT breaks there."""
    config = {**CASES["gpt2"].config, "init_weights": "uniform", "init_v_bound": 0.5}
    mine = ours(built("gpt2"), **config)
    mine.add_adapter("b", TinyLoraConfig(**config), init_seed=1)
    mine.set_adapter("b")
    control = TinyLoraModel(built("gpt2"), TinyLoraConfig(**config), init_seed=1)
    assert torch.equal(output(mine, CASES["gpt2"].inputs), output(control, CASES["gpt2"].inputs))


def test_tied_groups_share_one_parameter() -> None:
    mine = ours(deep(), **{**FOUR, "weight_tying": 0.5})
    assert [layer.group["default"] for layer in mine._wrapped] == ["0", "0", "1", "1"]
    assert len(list(mine.tinylora_v.parameters())) == 2
    first, second = mine._wrapped[:2]
    assert first.vector("default") is second.vector("default")


def test_deleting_takes_v_along_and_the_last_one_the_layers() -> None:
    model = deep()
    mine = ours(model, **FOUR)
    added(mine, "b", TWO)
    mine.delete_adapter("b")
    assert mine.active_adapters == ["default"]
    assert not any("b" in key.split(".") for key in mine.state_dict())
    mine.delete_adapter("default")
    assert list(mine.state_dict()) == [f"model.{key}" for key in model.state_dict()]
    assert mine.active_adapters == []
    assert torch.equal(output(mine, X), output(model, X))
    with pytest.raises(MismatchError, match="no adapter is called 'b'") as caught:
        mine.delete_adapter("b")
    assert "none" in (caught.value.hint or "")


def test_what_is_refused_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = built("mlp-5")
    directory = saved(by_peft(model, **CASES["mlp-5"].config), tmp_path / "a")
    tensors = load_file(directory / "adapter_model.safetensors")
    tensors["base_model.model.lin1.weight"] = torch.zeros(5, 20)
    save_file(tensors, directory / "adapter_model.safetensors")
    mine = ours(model, target_modules=["lin0"], u=4)
    before, names = mine.state_dict(), [name for name, _ in mine.named_modules()]
    with pytest.raises(MismatchError, match=r"brings lin1\.weight"):
        mine.load_adapter(directory, "b")
    assert [name for name, _ in mine.named_modules()] == names
    assert list(mine.state_dict()) == list(before)
    with pytest.raises(MismatchError, match="holds layers that an adapter adapts"):
        mine.add_adapter("c", TinyLoraConfig(target_modules=("lin1",), modules_to_save=("lin0",)))
