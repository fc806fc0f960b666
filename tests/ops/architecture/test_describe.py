"""Descriptions against what transformers saves."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_families
import torch
import transformers
from safetensors.torch import load_file

from tinylora_tools.bases.architectures.described import Described
from tinylora_tools.bases.architectures.layout import generalised
from tinylora_tools.ops.architecture.describe import describe, shortened


@pytest.mark.parametrize(
    "name",
    [
        "LlamaForCausalLM", "ViTForImageClassification", "MixtralForCausalLM", "Qwen2VLForConditionalGeneration",
        "Gemma3ForConditionalGeneration", "T5ForConditionalGeneration", "BertForMaskedLM",
    ],
)  # fmt: skip
def test_stored_names_are_those_of_save_pretrained(name: str, tmp_path: Path) -> None:
    """Found there by their values."""
    model_class = getattr(transformers, name)
    config = small_families.small_config(model_class.config_class.model_type)
    config.architectures = [name]
    model = small_families.random_model(model_class, config, torch.float32)
    model.save_pretrained(tmp_path)
    by_value = {
        value.numpy().tobytes(): key
        for path in tmp_path.glob("*.safetensors")
        for key, value in load_file(path).items()
    }
    one = Described(transformers.__version__, name, describe(model_class, [config]))
    for parameter, value in model.named_parameters():
        key = by_value.get(value.detach().numpy().tobytes())
        if key is None:
            assert generalised(parameter) in one.fused
        else:
            assert one.renaming.stored(parameter) == key
            assert key in one.stored_keys(parameter)


def test_renamings_are_as_few_beginnings_as_say_it_all() -> None:
    assert shortened({"a.b.x": "c.x", "a.b.y": "c.y", "a.z": "a.z"}) == {"a.b": "c"}
    assert shortened({"a.x": "a.x", "b": "b"}) == {}
    assert shortened({"x": "m.x", "y.z": "m.y.z"}) == {"": "m"}
    assert shortened({"a.q.w": "a.query.w", "a.k.w": "a.k.w"}) == {"a.q": "a.query"}


def test_names_of_an_older_release_are_found_as_from_pretrained_finds_them() -> None:
    """transformers 4 had SigLIP's tower inside another module."""
    older = {"modules": "model(vision_tower.vision_model.encoder.layers.*.mlp.fc1)", "stored": {"model": ""}}
    config = small_families.small_config("gemma3")
    found = describe(transformers.Gemma3ForConditionalGeneration, [config], older)
    one = Described("5", "Gemma3ForConditionalGeneration", found)
    assert (
        "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"
        in one.stored_keys("model.vision_tower.encoder.layers.1.mlp.fc1.weight")[:2]
    )
