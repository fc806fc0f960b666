"""A model whose every layer is tied to another's, through a merge, beside transformers and PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import small_families
import torch
import transformers
from family_runs import CLOSE, inputs_for, outputs_of

import tinylora_tools as tl


def outputs(model: Any, inputs: dict[str, Any]) -> Any:
    """It draws the canvas that it denoises."""
    torch.manual_seed(0)
    return outputs_of(model, inputs)


@pytest.mark.filterwarnings("ignore")
def test_layers_that_are_tied_are_held_apart(tmp_path: Path) -> None:
    """DiffusionGemma's decoder has its encoder's weights: an adapter of the one leaves the other as it is."""
    model_class = transformers.DiffusionGemmaForBlockDiffusion
    config = small_families.small_config("diffusion_gemma")
    config.architectures = [model_class.__name__]
    small_families.random_model(model_class, config, torch.float32).save_pretrained(tmp_path / "base")
    model = model_class.from_pretrained(tmp_path / "base").eval()
    inputs = inputs_for(config, model)
    plain = outputs(model, inputs)
    targets = [name for name, _ in model.named_modules() if ".decoder." in name and name.endswith("q_proj")]
    live = peft.get_peft_model(model, peft.TinyLoraConfig(r=2, u=4, target_modules=targets, weight_tying=0.0)).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if "tinylora_v" in name:
                parameter.uniform_(-0.5, 0.5)
    live.save_pretrained(tmp_path / "adapter")
    wanted = outputs(live, inputs)
    report = tl.merge([tmp_path / "adapter"], tmp_path / "merged", base=tmp_path / "base", release="5")
    assert report.tied == "untied"
    merged, loading = model_class.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(loading.values())
    assert (outputs(merged.eval(), inputs) - wanted).abs().max() < CLOSE * (wanted - plain).abs().max()
