"""What forwards do, seen by running them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma3TextConfig, PreTrainedConfig
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding
from transformers.models.opt.modeling_opt import OPTLearnedPositionalEmbedding

from tinylora_tools.ops.architecture.scales import entries, forward_of


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Shifted(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids + 1)


@pytest.mark.parametrize(
    ("made", "kind", "said"),
    [
        (lambda: nn.Linear(6, 5), "L", (True, None)),
        (lambda: FalconLinear(6, 5), "L", (True, None)),
        (lambda: FalconLinear(6, 5, bias=False), "L", (True, None)),
        (lambda: nn.Embedding(6, 5), "E", (True, None)),
        (lambda: Doubled(6, 5), "L", (False, None)),
        (lambda: Shifted(6, 5), "E", (False, None)),
        (lambda: OPTLearnedPositionalEmbedding(6, 5), "E", (False, None)),
        (lambda: nn.MultiheadAttention(8, 2).out_proj, "L", (False, None)),
        (
            lambda: Gemma3TextScaledWordEmbedding(6, 16, 0, embed_scale=4.0),
            "E",
            (False, {"as": "buffer", "root_of": "width"}),
        ),
        (lambda: Gemma3TextScaledWordEmbedding(6, 16, 0, embed_scale=1.0), "E", (True, None)),
        (lambda: Gemma3TextScaledWordEmbedding(6, 5, 0, embed_scale=3.5), "E", (False, {"as": "buffer", "value": 3.5})),
    ],
)
def test_forwards(made: Any, kind: str, said: Any) -> None:
    with torch.device("meta"):
        module = made()
    assert forward_of(module, kind, PreTrainedConfig()) == said


def test_a_factor_is_looked_up_in_the_configuration() -> None:
    config = Gemma3TextConfig(hidden_size=48)
    config.scale_emb = 12.0
    with torch.device("meta"):
        by_root = Gemma3TextScaledWordEmbedding(6, 5, 0, embed_scale=48**0.5)
        by_value = Gemma3TextScaledWordEmbedding(6, 5, 0, embed_scale=12.0)
    assert forward_of(by_root, "E", config)[1] == {"as": "buffer", "root_of": "hidden_size"}
    assert forward_of(by_value, "E", config)[1] == {"as": "buffer", "value_of": "scale_emb"}


def test_entries_of_inner_configurations_have_paths() -> None:
    assert list(entries({"a": 1, "b": {"c": {"d": 2}}})) == [("a", 1), ("b.c.d", 2)]
