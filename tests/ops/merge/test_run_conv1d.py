"""GPT-2's Conv1D in adapters that were added to another one: PEFT factors their weights as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from fixture_data import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tinylora_tools.errors import MismatchError, UnsupportedError
from tinylora_tools.ops.convert.lora import to_lora
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.convert.peft import to_peft
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.verify.base import verify_base

pytestmark = pytest.mark.filterwarnings("ignore")

GPT2 = ROOT / "bases" / "gpt2-fp32"
IDS = torch.arange(3, 27).reshape(2, 12)


def load(path: Path = GPT2) -> Any:
    return AutoModelForCausalLM.from_pretrained(path).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def added(directory: Path, first: list[str], second: list[str]) -> tuple[Path, Any]:
    """An adapter that was added to one with other targets, and the model in which it is active."""
    torch.manual_seed(0)
    model = peft.get_peft_model(load(), peft.TinyLoraConfig(r=2, u=3, target_modules=first))
    settings = {"r": 2, "u": 3, "init_weights": "uniform", "init_v_bound": 2.0}
    model.add_adapter("second", peft.TinyLoraConfig(**settings, target_modules=second))
    model.set_adapter("second")
    model.save_pretrained(directory)
    return directory / "second", model.eval()


def test_square_ones_are_merged_as_peft_s_forward_pass_has_them(tmp_path: Path) -> None:
    adapter, model = added(tmp_path / "a", ["c_attn", "c_proj"], ["attn.c_proj"])
    plain, wanted = logits(load()), logits(model)
    report = merge(adapter, tmp_path / "merged", GPT2)
    assert all(module.rho is not None and module.rho < 1e-4 for module in report.modules)
    to_lora(adapter, tmp_path / "lora", base=GPT2)
    to_peft(adapter, tmp_path / "anew", base=GPT2)
    for made in (
        load(tmp_path / "merged"),
        peft.PeftModel.from_pretrained(load(), tmp_path / "lora").eval(),
        peft.PeftModel.from_pretrained(load(), tmp_path / "anew").eval(),
    ):
        assert float((logits(made) - wanted).norm() / (wanted - plain).norm()) < 1e-5
    assert verify_base(adapter, GPT2).verdict == "same-weights"
    with pytest.raises(UnsupportedError, match="PEFT made its factors of the weight as it is stored, not"):
        pack(adapter, tmp_path / "p.safetensors", base=GPT2)


def test_others_are_refused_everywhere(tmp_path: Path) -> None:
    """Their own forward pass fails in PEFT."""
    adapter, model = added(tmp_path / "a", ["c_attn"], ["c_attn"])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        logits(model)
    for export in (merge, to_lora, to_peft, pack):
        output = tmp_path / ("out.safetensors" if export is pack else "out")
        with pytest.raises(MismatchError, match="c_attn: its factors are for a weight of shape"):
            export(adapter, output, base=GPT2)
        assert not output.exists()


def test_a_layer_that_was_not_wrapped_is_as_any_other(tmp_path: Path) -> None:
    adapter, model = added(tmp_path / "a", ["c_attn"], ["attn.c_proj"])
    plain, wanted = logits(load()), logits(model)
    merge(adapter, tmp_path / "merged", GPT2)
    assert float((logits(load(tmp_path / "merged")) - wanted).norm() / (wanted - plain).norm()) < 1e-5
    pack(adapter, tmp_path / "p.safetensors", base=GPT2)
    assert load_file(tmp_path / "p.safetensors")
