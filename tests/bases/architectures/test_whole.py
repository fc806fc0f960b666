"""Modules that are what they seem as long as config.json has its defaults."""

from __future__ import annotations

from typing import Any

import pytest

from tinylora_tools import UndeterminedError
from tinylora_tools.bases.architectures.named import from_config
from tinylora_tools.bases.architectures.whole import require_whole

GROUPS = [{"slow": False}, {"text.tp": 1, "kind": None}]
BLOOM = {"model_type": "bloom", "architectures": ["BloomForCausalLM"]}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"slow": False},
        {"slow": False, "text": {"tp": 2}},
        {"slow": True},
        {"slow": True, "text": {"tp": 1}, "kind": None},
    ],
    ids=str,
)
def test_one_group_of_defaults_is_enough(config: dict[str, Any]) -> None:
    require_whole("a", GROUPS, config)
    require_whole("a", None, config)


@pytest.mark.parametrize(
    "config",
    [
        {"slow": True, "text": {"tp": 2}},
        {"slow": True, "text": {"tp": True}},
        {"slow": True, "text": None},
        {"slow": 0, "kind": "b"},
    ],
    ids=str,
)
def test_with_anything_else_it_is_not_known(config: dict[str, Any]) -> None:
    said = r"a is known to do no more than its kind where slow is false or text\.tp is 1 and kind is null in the base's"
    with pytest.raises(UndeterminedError, match=said) as caught:
        require_whole("a", GROUPS, config)
    assert "tinylora_tools.architecture(" in str(caught.value.hint)


def test_without_a_configuration_it_is_not_known() -> None:
    with pytest.raises(UndeterminedError) as caught:
        require_whole("a", GROUPS, None)
    assert "Name the base's directory" in str(caught.value.hint)


@pytest.mark.parametrize("module", ["mlp.dense_4h_to_h", "self_attention.dense"])
def test_a_bloom_that_slices_its_weights(module: str) -> None:
    name = f"transformer.h.0.{module}"
    for changes in (
        {},
        {"pretraining_tp": 4},
        {"slow_but_exact": True},
        {"pretraining_tp": 4, "slow_but_exact": False},
    ):
        found = from_config({**BLOOM, **changes})
        assert found is not None
        assert found.is_plain(name)
    found = from_config({**BLOOM, "pretraining_tp": 4, "slow_but_exact": True})
    assert found is not None
    with pytest.raises(UndeterminedError, match="pretraining_tp is 1 or slow_but_exact is false"):
        found.is_plain(name)
    assert found.is_plain("transformer.h.0.mlp.dense_h_to_4h")
