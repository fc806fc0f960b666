"""Whose weight is taken, in transformers' own classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.bloom.modeling_bloom import BloomAttention, BloomMLP
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashTopkRouter
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from tinylora_tools.ops.architecture.taken import taken_by


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(2, 2) for _ in range(4))
        self.d.weight = self.c.weight

    def forward(self, x: torch.Tensor) -> Any:
        y = x.to(self.a.weight.dtype) @ self.b.weight
        return nn.functional.linear(
            y,
            self.c.weight,
        ) + self.a(x)


@pytest.mark.parametrize(
    ("module_class", "names"),
    [
        (Around, {"b", "c"}),
        (LlamaAttention, set()),
        (MambaMixer, {"dt_proj"}),
        (Mamba2Mixer, set()),  # its out_proj goes to a kernel in one path, and is called in the others
        (BloomAttention, set()),
        (BloomMLP, set()),
        (WavLMAttention, {"q_proj", "k_proj", "v_proj", "out_proj"}),
        (DebertaV2Encoder, {"rel_embeddings"}),
        (LongcatFlashTopkRouter, {"classifier"}),
        (nn.Linear, set()),
    ],
)
def test_weights_that_are_taken(module_class: type, names: set[str]) -> None:
    assert taken_by(module_class) == names
