"""What a LoRA adapter of TinyLoRA's updates consists of: ranks, sums, types of layers, and the configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from edited_files import edited_copy
from fixture_data import ROOT, fixture, tensors
from lora_files import delta_of
from safetensors.numpy import load_file, save_file

from tinylora_tools import described_by
from tinylora_tools.errors import MismatchError, UndeterminedError, UnsupportedError
from tinylora_tools.ops.convert.lora import to_lora

pytestmark = pytest.mark.filterwarnings("ignore")


def test_ranks_are_padded_or_told(tmp_path: Path) -> None:
    case = fixture("peft021-bias-own")
    adapter = tmp_path / "adapter"
    shutil.copytree(case.adapter, adapter)
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    first = sorted(key for key in tensors if key.endswith("tinylora_A"))[0].removesuffix("A")
    tensors[first + "A"], tensors[first + "B"] = tensors[first + "A"][:1], tensors[first + "B"][:, :1]
    tensors[first + "P"] = tensors[first + "P"][:, :1, :1]
    config = json.loads((adapter / "adapter_config.json").read_text())
    save_file(tensors, path, metadata={"format": "pt"})
    base = case.base
    with pytest.raises(MismatchError, match="rank 1"):
        to_lora([adapter], tmp_path / "no", base=base)
    module = first.removeprefix("base_model.model.").removesuffix(".tinylora_")
    # an honest module of a smaller rank: a weight that has no more
    narrow = np.ones((1, tensors[first + "A"].shape[1]), np.float32)
    tensors[first + "A"], tensors[first + "B"] = narrow, np.ones((1, 1), np.float32)
    save_file(tensors, path, metadata={"format": "pt"})
    report = to_lora([adapter], tmp_path / "padded", base=base)
    assert (report.rank, report.ranks) == (config["r"], {})
    told = to_lora([adapter], tmp_path / "told", base=base, rank_pattern=True)
    assert told.ranks[module] == 1
    assert np.allclose(delta_of(tmp_path / "told", module), delta_of(tmp_path / "padded", module))


def test_several_adapters_become_one(tmp_path: Path) -> None:
    cases = [fixture("peft019-shared"), fixture("peft021-13-numbers")]
    base = cases[0].base
    report = to_lora([case.adapter for case in cases], tmp_path / "lora", base=base, scale=(1.0, 0.5))
    assert report.rank == 4
    deltas: dict[str, Any] = {}
    for case, scale in zip(cases, (1.0, 0.5), strict=True):
        for module in case.modules:
            deltas[module["name"]] = deltas.get(module["name"], 0) + scale * case.delta(module["name"])
    for module, exact in deltas.items():
        assert np.allclose(delta_of(tmp_path / "lora", module), exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    with pytest.raises(MismatchError, match="3 scales for 2"):
        to_lora([c.adapter for c in cases], tmp_path / "x", scale=(1.0, 2.0, 3.0))


def test_config_is_what_peft_writes(tmp_path: Path) -> None:
    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), peft.LoraConfig(target_modules=["0"]))
    model.save_pretrained(tmp_path / "theirs")
    case = fixture("peft021-13-numbers")
    to_lora(case.adapter, tmp_path / "ours", base=case.base)
    ours, theirs = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    of_the_adapter = {"r", "lora_alpha", "target_modules", "auto_mapping", "base_model_name_or_path", "task_type"}
    for key in ours.keys() - of_the_adapter:
        assert ours[key] == theirs[key], key


def test_without_an_architecture_an_embedding_is_not_guessed(tmp_path: Path) -> None:
    """By its name it may be a Linear, and whether it scales what it looks up isn't known either."""
    case = fixture("peft021-embedding")
    adapter = edited_copy(case.name, tmp_path / "a", base_model_name_or_path=None, auto_mapping=None)
    order = [module["name"] for module in case.modules]
    with pytest.raises(UndeterminedError, match=r"model\.embed_tokens: no config\.json tells the architecture"):
        to_lora(adapter, tmp_path / "lora", module_order=order)
    assert not (tmp_path / "lora").exists()
    to_lora(adapter, tmp_path / "told", base=case.base)
    linear = edited_copy("peft021-layers", tmp_path / "b", base_model_name_or_path=None, auto_mapping=None)
    order = [row["name"] for row in fixture("peft021-layers").modules]
    with pytest.raises(UndeterminedError, match="and with it whether its 6 modules are layers that the model calls"):
        to_lora(linear, tmp_path / "one", module_order=order)
    with described_by("plain"):
        to_lora(linear, tmp_path / "one", module_order=order)
    to_lora(linear, tmp_path / "other", base=case.base)
    one, other = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_factors_too_large_for_a_dtype_are_refused(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    for dtype, hint in (
        ("float16", "Choose float32, or a smaller scale."),
        ("float32", "Choose a smaller scale."),
    ):
        large = {"float16": 1e9, "float32": 1e45}[dtype]
        with pytest.raises(UnsupportedError, match=f"its factors are too large for {dtype}") as caught:
            to_lora(case.adapter, tmp_path / "lora", base=case.base, dtype=dtype, scale=large)
        assert caught.value.hint == hint
    with pytest.raises(UnsupportedError, match="its factors hold NaN or Inf"):
        to_lora(case.adapter, tmp_path / "lora", base=case.base, scale=float("inf"))


def test_adapters_of_other_weights_are_not_summed(tmp_path: Path) -> None:
    one, other = fixture("peft021-13-numbers"), fixture("peft021-scalar")
    with pytest.raises(MismatchError, match="the adapters are for weights of shapes") as caught:
        to_lora([one.adapter, other.adapter], tmp_path / "lora", base=one.base)
    assert caught.value.hint == "Convert adapters of one base together."
    assert not (tmp_path / "lora").exists()


def test_the_configuration_of_several_has_what_each_brings(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    head = {"base_model.model.lm_head.weight": tensors(case.base)["lm_head.weight"]}
    second = edited_copy(
        case.name, tmp_path / "a", lambda t: t.update(head), modules_to_save=["lm_head"], bias="tinylora_only"
    )
    to_lora([case.adapter, second], tmp_path / "lora", base=case.base)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (config["modules_to_save"], config["bias"]) == (["lm_head"], "lora_only")
    assert (config["layers_to_transform"], config["layers_pattern"]) == (None, None)
    assert config["target_modules"] == sorted(module["name"] for module in case.modules)


@pytest.mark.parametrize("targets", [r".*\.[qv]_proj", ["q_proj", "v_proj"]], ids=["expression", "names"])
def test_layers_of_an_expression_are_left_out(targets: Any, tmp_path: Path) -> None:
    """TinyLoRA passes over layers_to_transform where target_modules is an expression; PEFT's LoRA refuses the two."""
    base = ROOT / "bases" / "llama-fp32"
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    config = peft.TinyLoraConfig(target_modules=targets, layers_to_transform=[0], init_weights="uniform", u=3)
    tiny = peft.get_peft_model(model, config)
    tiny.save_pretrained(tmp_path / "adapter")
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        expected = tiny(tokens).logits
    to_lora(tmp_path / "adapter", tmp_path / "lora", base=base)
    fresh = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    with torch.no_grad():
        found = peft.PeftModel.from_pretrained(fresh, tmp_path / "lora")(tokens).logits
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
