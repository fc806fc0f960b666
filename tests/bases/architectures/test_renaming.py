"""Names in the model to names in the file, and back."""

from __future__ import annotations

import pytest

from tinylora_tools.bases.architectures.renaming import Renaming

RULES = {
    "model.language_model": "language_model.model",
    "model.vision_tower": "vision_tower",
    "layers.*.attention.q_proj": "encoder.layer.*.attention.attention.query",
    "merger.0": "merger.first",
}


@pytest.mark.parametrize(
    ("parameter", "stored"),
    [
        ("model.language_model.layers.3.up.weight", "language_model.model.layers.3.up.weight"),
        ("model.vision_tower.x.bias", "vision_tower.x.bias"),
        ("layers.12.attention.q_proj.weight", "encoder.layer.12.attention.attention.query.weight"),
        ("merger.0.weight", "merger.first.weight"),
        ("merger.1.weight", "merger.1.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_the_longest_beginning_counts_in_both_directions(parameter: str, stored: str) -> None:
    renaming = Renaming(RULES)
    assert renaming.stored(parameter) == stored
    assert parameter in renaming.parameters(stored)


def test_a_name_that_no_parameter_is_saved_under_is_none_s() -> None:
    renaming = Renaming({"model.language_model": "model"})
    assert renaming.parameters("model.layers.0.w") == ["model.language_model.layers.0.w"]
    assert renaming.parameters("visual.w") == ["visual.w"]
    assert Renaming({"": "model"}).stored("layers.0.w") == "model.layers.0.w"
    assert Renaming({"": "model"}).parameters("model.layers.0.w") == ["layers.0.w"]
    assert Renaming({"": "model"}).parameters("lm_head.weight") == []
