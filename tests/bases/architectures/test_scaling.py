"""Where the number that an embedding is multiplied by comes from."""

from __future__ import annotations

from typing import Any

import pytest

from tinylora_tools.bases.architectures.scaling import Scaling, scaling_of
from tinylora_tools.errors import FormatError, UndeterminedError


@pytest.mark.parametrize(
    ("scale", "config", "found"),
    [
        ({"as": "buffer", "root_of": "width"}, {}, Scaling("buffer", 8.0)),
        ({"as": "buffer", "root_of": "width"}, None, Scaling("buffer", 8.0)),
        ({"as": "number", "root_of": "text_config.size"}, {"text_config": {"size": 16}}, Scaling("number", 4.0)),
        ({"as": "number", "value_of": "scale"}, {"scale": 12}, Scaling("number", 12.0)),
        ({"as": "number", "value": 3.5}, None, Scaling("number", 3.5)),
        ({"as": "number", "value": 3.5, "if": "on", "default": True}, {}, Scaling("number", 3.5)),
        ({"as": "number", "value": 3.5, "if": "on", "default": True}, {"on": False}, None),
        ({"as": "number", "value": 3.5, "if": "on", "default": False}, {}, None),
    ],
    ids=str,
)
def test_numbers(scale: dict[str, Any], config: dict[str, Any] | None, found: Scaling | None) -> None:
    assert scaling_of(scale, config, "embed_tokens", 64) == found


@pytest.mark.parametrize(
    ("scale", "config"),
    [
        ({"as": "number", "value": 3.5, "if": "on", "default": True}, None),
        ({"as": "number", "value_of": "scale"}, None),
        ({"as": "number", "root_of": "a.size"}, {"a": {}}),
    ],
    ids=str,
)
def test_what_no_configuration_says_is_not_known(scale: dict[str, Any], config: dict[str, Any] | None) -> None:
    with pytest.raises(
        UndeterminedError, match=r"embed_tokens may be scaled, which .* in the base's config\.json says"
    ):
        scaling_of(scale, config, "embed_tokens", 64)


@pytest.mark.parametrize("value", [0, -3, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("rule", ["value_of", "root_of"])
def test_what_nothing_can_be_multiplied_by_is_told(rule: str, value: float) -> None:
    with pytest.raises(FormatError, match=r"config\.json: text\.scale is .*, by which embed_tokens can't be scaled"):
        scaling_of({"as": "number", rule: "text.scale"}, {"text": {"scale": value}}, "embed_tokens", 64)
