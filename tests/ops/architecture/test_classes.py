"""Which classes a configuration is for."""

from __future__ import annotations

import torch
import transformers

from tinylora_tools.ops.architecture.classes import classes_of


def test_the_bare_class_comes_first_and_other_families_stay_out() -> None:
    found = classes_of("qwen2", transformers.Qwen2Config)
    assert next(iter(found)) == "Qwen2Model"
    assert found["Qwen2ForCausalLM"] is transformers.Qwen2ForCausalLM
    assert all(issubclass(one, transformers.PreTrainedModel) for one in found.values())
    assert "BertModel" not in classes_of("vision-text-dual-encoder", transformers.VisionTextDualEncoderConfig)


def test_a_family_without_classes_of_its_own_is_loaded_into_another_s() -> None:
    """As transformers' auto classes load it."""
    config = transformers.CONFIG_MAPPING["exaone"]()
    found = classes_of("exaone", type(config))
    assert found == {"LlamaModel": transformers.LlamaModel, "LlamaForCausalLM": transformers.LlamaForCausalLM}
    with torch.device("meta"):
        assert type(transformers.AutoModelForCausalLM.from_config(config)) is found["LlamaForCausalLM"]
