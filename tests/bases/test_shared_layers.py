"""What a checkpoint shows of layers that share weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylora_tools.bases.shared_layers import SharedLayers
from tinylora_tools.bases.tensor_names import BaseNames
from tinylora_tools.errors import UndeterminedError
from tinylora_tools.formats.checkpoint import Checkpoint
from tinylora_tools.formats.memory_file import MemoryFile


def checkpoint(weights: dict[str, Any]) -> Checkpoint:
    file = MemoryFile(Path("base"), weights)
    return Checkpoint(Path("base"), {"model_type": "nobody"}, (file,), dict.fromkeys(weights, 0))


def drawn(*names: str) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal((4, 4), np.float32) for name in names}


def test_a_plain_decoder_shows_nothing() -> None:
    kinds = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "norm.weight")
    weights = drawn(*(f"model.layers.{i}.{kind}" for i in range(3) for kind in kinds))
    weights |= {f"model.layers.{i}.norm.weight": np.ones(4, np.float32) for i in range(3)}
    found = SharedLayers(checkpoint(weights))
    assert [found.sign(key) for key in weights] == [None] * len(weights)


def test_nor_do_layers_of_other_kinds() -> None:
    """Attention in some and a state space in others, experts behind a dense layer, a first layer without its norm."""
    weights = drawn(
        "layers.0.mamba.in_proj.weight", "layers.0.mlp.up.weight", "layers.1.attn.q.weight", "layers.1.mlp.up.weight",
        "layers.1.norm.weight", "layers.2.attn.q.weight", "layers.2.mlp.experts.0.up.weight",
        "layers.2.mlp.experts.1.up.weight", "layers.2.norm.weight",
    )  # fmt: skip
    found = SharedLayers(checkpoint(weights))
    assert [key for key in weights if "norm" not in key and found.sign(key)] == []


def test_a_weight_that_is_stored_for_one_of_two_layers_alike_may_be_both_s() -> None:
    """As Zamba's are: what the layers have besides is stored for each."""
    weights = drawn("layers.2.shared.q.weight", "layers.2.mamba.in.weight", "layers.7.mamba.in.weight", "layers.8.m.x")
    found = SharedLayers(checkpoint(weights))
    assert found.sign("layers.2.shared.q.weight") == "layers.7 has all that this layer has but such modules"
    assert found.sign("layers.2.mamba.in.weight") is None
    names = BaseNames(checkpoint(weights), None)
    names.require_known("layers.2.mamba.in")
    with pytest.raises(UndeterminedError, match=r"'nobody' isn't known, and layers\.7 has all .* may be that layer's"):
        names.require_known("layers.2.shared.q")


def test_the_same_values_may_be_one_weight() -> None:
    weights = drawn("h.0.w.weight", "h.1.w.weight", "h.2.w.weight")
    weights["h.2.w.weight"] = weights["h.0.w.weight"].copy()
    found = SharedLayers(checkpoint(weights))
    assert found.sign("h.0.w.weight") == "h.2.w.weight is stored with the same values"
    assert found.sign("h.1.w.weight") is None
