"""Groups against the ones that PEFT forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import TinyLoraConfig, get_peft_model

from tinylora_tools.core.tying import group_count, group_of


class Layers(torch.nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.layer = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(count))


@pytest.mark.parametrize("weight_tying", [0.0, 0.1, 0.3, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("modules", [1, 5, 12])
def test_groups_are_peft_s(modules: int, weight_tying: float) -> None:
    names = [f"layer.{i}" for i in range(modules)]
    config = TinyLoraConfig(r=1, u=1, weight_tying=weight_tying, target_modules=names)
    model = get_peft_model(Layers(modules), config).base_model
    vectors = [model.tinylora_v["default"][str(i)] for i in range(group_count(modules, weight_tying))]
    assert len(model.tinylora_v["default"]) == len(vectors)
    for i, layer in enumerate(model.model.layer):
        used = layer.tinylora_v["default"][layer._tinylora_v_key["default"]]
        assert used is vectors[group_of(i, modules, weight_tying)]


@pytest.mark.parametrize(
    ("modules", "weight_tying", "groups"),
    [(5, 0.5, 2), (7, 0.5, 4), (3, 0.5, 2), (84, 1.0, 1), (84, 0.0, 84), (4, 0.9, 1), (0, 0.0, 1)],
)
def test_counts_are_rounded_half_to_even(modules: int, weight_tying: float, groups: int) -> None:
    assert group_count(modules, weight_tying) == groups


@given(st.integers(1, 400), st.floats(0, 1))
def test_every_group_is_used_and_modules_of_one_lie_together(modules: int, weight_tying: float) -> None:
    found = [group_of(i, modules, weight_tying) for i in range(modules)]
    assert found == sorted(found)
    assert set(found) == set(range(group_count(modules, weight_tying)))
