"""Bases and adapters that were saved of wrapped models, and adapters with a name that PEFT trips over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from edited_files import WEIGHTS
from fixture_data import ROOT, tensors
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.errors import MismatchError
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.verify.base import verify_base
from tinylora_tools.ops.verify.seed import verify_seed

pytestmark = pytest.mark.filterwarnings("ignore")

QWEN2, SHARDED = ROOT / "bases" / "qwen2-bf16", ROOT / "bases" / "llama-sharded-bf16"
CONFIG = {"r": 2, "u": 3, "target_modules": ["q_proj", "o_proj"], "init_weights": "uniform"}


def compiled(name: str) -> str:
    return f"_orig_mod.{name}"


def compiled_layers(name: str) -> str:
    parts = name.split(".")
    return ".".join([*parts[:3], "_orig_mod", *parts[3:]]) if parts[:2] == ["model", "layers"] else name


def parallel(name: str) -> str:
    return f"module.{compiled_layers(name)}"


def rewritten(base: Path, directory: Path, rename: Callable[[str], str], *, pickled: bool = False) -> Path:
    """A base with its tensors under other names."""
    shutil.copytree(base, directory)
    for path in directory.glob("*.safetensors"):
        state = {rename(name): tensor for name, tensor in load_file(path).items()}
        if pickled:
            torch.save(state, directory / "pytorch_model.bin")
            path.unlink()
        else:
            save_file(state, path, metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        content = json.loads(index.read_text())
        content["weight_map"] = {rename(name): file for name, file in content["weight_map"].items()}
        index.write_text(json.dumps(content))
    return directory


def adapter_of(base: Path, directory: Path, wrap: Callable[[Any], Any] = lambda model: model) -> Path:
    torch.manual_seed(0)
    model = wrap(AutoModelForCausalLM.from_pretrained(base))
    peft.get_peft_model(model, peft.TinyLoraConfig(**CONFIG)).save_pretrained(directory)
    return directory


def compile_layers(model: Any) -> Any:
    for number in range(len(model.model.layers)):
        model.model.layers[number] = torch.compile(model.model.layers[number])
    return model


@pytest.mark.parametrize(
    ("rename", "base", "pickled"),
    [(compiled, QWEN2, False), (compiled_layers, SHARDED, False), (parallel, QWEN2, True), (parallel, SHARDED, False)],
)
def test_a_base_of_a_wrapped_model(rename: Callable[[str], str], base: Path, pickled: bool, tmp_path: Path) -> None:
    """The result has plain names, which transformers loads."""
    adapter = adapter_of(base, tmp_path / "adapter")
    wrapped = rewritten(base, tmp_path / "wrapped", rename, pickled=pickled)
    merge(adapter, tmp_path / "plain", base)
    report = merge(adapter, tmp_path / "merged", wrapped)
    assert any("tensors were saved of a wrapped model" in warning for warning in report.warnings)
    one, other = tensors(tmp_path / "plain"), tensors(tmp_path / "merged")
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    _, told = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert verify_base(adapter, wrapped).verdict == "same-weights"


@pytest.mark.parametrize(
    "wrap", [torch.compile, compile_layers, torch.nn.DataParallel], ids=["whole", "layers", "data"]
)
def test_an_adapter_of_a_wrapped_model(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    plain, wrapped = adapter_of(QWEN2, tmp_path / "plain"), adapter_of(QWEN2, tmp_path / "wrapped", wrap)
    assert load_file(plain / WEIGHTS).keys() != load_file(wrapped / WEIGHTS).keys()
    for name, adapter in (("a", plain), ("b", wrapped)):
        merge(adapter, tmp_path / name, QWEN2)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert verify_seed(wrapped, base=QWEN2).ok
    assert verify_base(wrapped, QWEN2).verdict == "same-weights"


def test_a_state_dict_of_a_parallel_model_has_no_vectors(tmp_path: Path) -> None:
    """PEFT takes them by what their keys begin with; it would be loaded without what was learnt."""
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(QWEN2), peft.TinyLoraConfig(**CONFIG))
    model.save_pretrained(tmp_path / "a", state_dict=torch.nn.DataParallel(model).state_dict())
    with pytest.raises(MismatchError, match="no trained vector") as caught:
        merge(tmp_path / "a", tmp_path / "out", QWEN2)
    assert "the state dict of a model that DistributedDataParallel wraps" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["0", "11", "q_proj", "model"])
def test_an_adapter_that_is_called_like_a_part_of_a_path(name: str, tmp_path: Path) -> None:
    """PEFT takes its name out of keys: that of group 0's vector, where the adapter is called "0"."""
    torch.manual_seed(0)
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(QWEN2), peft.TinyLoraConfig(**CONFIG), adapter_name=name
    )
    model.save_pretrained(tmp_path)
    found = load_adapter(tmp_path / name, QWEN2)
    live = {n: module for n, module in model.base_model.model.named_modules() if hasattr(module, "_tinylora_v_key")}
    assert found.groups == {n: int(module._tinylora_v_key[name]) for n, module in live.items()}
    for module, layer in live.items():
        wanted = layer.get_delta_weight(name).detach().numpy().astype(np.float64)
        np.testing.assert_allclose(found.delta(module), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    merge(tmp_path / name, tmp_path / "out", QWEN2)
