"""Which classes a configuration is for."""

from __future__ import annotations

import transformers

from tinylora_tools.ops.architecture.classes import classes_of


def test_the_bare_class_comes_first_and_other_families_stay_out() -> None:
    found = classes_of("qwen2", transformers.Qwen2Config)
    assert next(iter(found)) == "Qwen2Model"
    assert found["Qwen2ForCausalLM"] is transformers.Qwen2ForCausalLM
    assert all(issubclass(one, transformers.PreTrainedModel) for one in found.values())
    assert "BertModel" not in classes_of("vision-text-dual-encoder", transformers.VisionTextDualEncoderConfig)
