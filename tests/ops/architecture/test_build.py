"""Models without weights."""

from __future__ import annotations

import small_families
import torch
import transformers

from tinylora_tools.ops.architecture.build import build, kind_of


def test_a_model_has_shapes_and_ties_and_no_weights() -> None:
    model = build(transformers.GPT2LMHeadModel, small_families.small_config("gpt2"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.lm_head.weight is model.transformer.wte.weight
    kinds = [kind_of(m) for m in (model.lm_head, model.transformer.wte, model.transformer.h[0].attn.c_attn, model)]
    assert kinds == ["L", "E", "C", None]


def test_a_number_in_a_buffer_is_remembered() -> None:
    """As transformers 4 holds what embeddings are scaled by."""

    class Scaled(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.register_buffer("embed_scale", torch.tensor(scale))

        def tie_weights(self) -> None: ...

    before = torch.tensor
    model = build(Scaled, 5.5)
    assert torch.tensor is before
    assert model.embed_scale.device.type == "meta"
    assert model.embed_scale.number == 5.5
