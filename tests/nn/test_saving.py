"""Adapters in PEFT's files: beside others, over others, and never half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from live_models import CASES, built, by_peft, loaded, loaded_by_peft, off, ours, output, quietly, saved
from safetensors.torch import load_file

from tinylora_tools import FormatError, OutputError
from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel


@pytest.mark.parametrize("bias", ["all", "tinylora_only"])
@pytest.mark.parametrize("name", ["mlp-4", "mlp-5", "bert-cls", "gpt2", "opt"])
def test_biases_are_saved_and_loaded_as_peft_does(name: str, bias: str, tmp_path: Path) -> None:
    case, model = CASES[name], built(name)
    theirs = by_peft(model, **case.config, bias=bias)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if parameter.requires_grad and key.endswith("bias"):
                parameter.add_(0.25)
    directory = saved(theirs, tmp_path / "a")
    mine = loaded(model, directory, is_trainable=True)
    assert (
        off(output(mine, case.inputs), output(theirs, case.inputs)) < 3e-6
    )  # of biases that sum to less than they are
    mine.save_pretrained(tmp_path / "b")
    there, here = (load_file(one / "adapter_model.safetensors") for one in (directory, tmp_path / "b"))
    assert set(here) == set(there)
    assert all(torch.equal(here[key], tensor) for key, tensor in there.items())
    trained = {k for k, p in mine.named_parameters() if p.requires_grad and k.endswith("bias")}
    there_trained = {k for k, p in theirs.base_model.named_parameters() if p.requires_grad and k.endswith("bias")}
    assert trained == {key for key in there_trained if "original_module" not in key}


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "q_proj"], ".*(embed_tokens)"])
def test_embeddings_that_are_targeted_by_name_are_saved_whole(targets: Any, tmp_path: Path) -> None:
    case, model = CASES["qwen2"], built("qwen2")
    theirs = by_peft(model, target_modules=targets, u=3)
    directory = saved(theirs, tmp_path / "a")
    there = load_file(directory / "adapter_model.safetensors")
    assert any(key.endswith("base_layer.weight") for key in there)
    mine = ours(model, target_modules=targets, u=3)
    mine.save_pretrained(tmp_path / "b")
    assert set(load_file(tmp_path / "b" / "adapter_model.safetensors")) == set(there)
    assert off(output(loaded(model, directory), case.inputs), output(theirs, case.inputs)) < 1e-6


def test_others_lie_in_directories_of_their_own(tmp_path: Path) -> None:
    case, model = CASES["qwen2"], built("qwen2")
    mine = ours(model, **case.config)
    mine.add_adapter("b", TinyLoraConfig(**{**case.config, "init_weights": "uniform", "u": 3}), init_seed=2)
    mine.save_pretrained(tmp_path / "both")
    assert sorted(str(p.relative_to(tmp_path / "both")) for p in (tmp_path / "both").rglob("*.*")) == [
        "adapter_config.json", "adapter_model.safetensors", "b/adapter_config.json", "b/adapter_model.safetensors",
    ]  # fmt: skip
    theirs = loaded_by_peft(model, tmp_path / "both")
    with quietly():
        theirs.load_adapter(str(tmp_path / "both" / "b"), "b")
    for name in ("default", "b"):
        mine.set_adapter(name)
        theirs.set_adapter(name)
        assert off(output(mine, case.inputs), output(theirs, case.inputs)) < 1e-6


def test_files_are_replaced_when_asked_and_others_stay(tmp_path: Path) -> None:
    mine = ours(built("mlp-1"), **CASES["mlp-1"].config)
    mine.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "optimizer.pt").write_text("kept")
    before = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    with torch.no_grad():
        next(iter(mine.tinylora_v.parameters())).add_(1)
    with pytest.raises(OutputError, match="exists already") as caught:
        mine.save_pretrained(tmp_path / "a")
    assert "force=True" in (caught.value.hint or "")
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == before
    mine.save_pretrained(tmp_path / "a", force=True)
    assert (tmp_path / "a" / "optimizer.pt").read_text() == "kept"
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() != before
    mine.save_pretrained(tmp_path / "b")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_v_that_is_not_finite_is_not_saved(value: float, tmp_path: Path) -> None:
    mine = ours(built("mlp-1"), **CASES["mlp-1"].config)
    with torch.no_grad():
        mine.tinylora_v["default"]["0"][3] = value  # type: ignore[index]
    with pytest.raises(FormatError, match="NaN or Inf") as caught:
        mine.save_pretrained(tmp_path / "a")
    assert caught.value.hint
    assert not (tmp_path / "a").exists()


def test_a_p_that_the_seed_does_not_draw_is_saved(tmp_path: Path) -> None:
    """P of an adapter whose file left it out, and whose places are another's: without P it couldn't be drawn again."""
    model = built("mlp-4")
    mine = ours(model, target_modules=["lin0", "lin1"], u=4, save_projection=False)
    mine.save_pretrained(tmp_path / "a")
    assert not any("tinylora_P" in key for key in load_file(tmp_path / "a" / "adapter_model.safetensors"))
    from dataclasses import replace

    mine._contents["default"] = replace(mine._contents["default"], drawn=False)
    mine.save_pretrained(tmp_path / "b")
    assert any("tinylora_P" in key for key in load_file(tmp_path / "b" / "adapter_model.safetensors"))
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["save_projection"] is True
    inputs = CASES["mlp-4"].inputs
    again = TinyLoraModel.from_pretrained(built("mlp-4"), tmp_path / "b")
    assert torch.equal(output(again, inputs), output(mine, inputs))


@pytest.mark.parametrize("targets", [["q_proj"], ["embed_tokens", "q_proj"]])
def test_embeddings_of_a_resized_vocabulary_are_saved(targets: list[str], tmp_path: Path) -> None:
    model: Any = built("qwen2")
    model.save_pretrained(tmp_path / "base")
    with quietly():
        model = type(model).from_pretrained(tmp_path / "base").eval()
        model.resize_token_embeddings(100)
    theirs = by_peft(model, target_modules=targets, u=3)
    directory = saved(theirs, tmp_path / "a")
    mine = loaded(model, directory)
    mine.save_pretrained(tmp_path / "b")
    there, here = (load_file(one / "adapter_model.safetensors") for one in (directory, tmp_path / "b"))
    assert set(here) == set(there)
    assert any("embed_tokens" in key and key.endswith("weight") for key in there)
    assert all(torch.equal(here[key], tensor) for key, tensor in there.items())
