"""An architecture file's entries: those of this release's data are sound, and each that isn't is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tinylora_tools.bases.architectures import families
from tinylora_tools.bases.architectures.checked import require_sound

TIE = {"members": ["a.weight", "b.weight"], "stored": "a.weight", "tied": "FTF"}
SOUND: dict[str, Any] = {
    "family": "mine",
    "releases": {
        "5.0": {
            "bare": "Model",
            "inner": {"text_config.model_type": ["mine"]},
            "classes": {
                "Model": {"modules": "a:E layers.*(b c(d:l e)) f", "prefix": "", "ties": [TIE], "flags": ["flag"]},
                "Other": {
                    "scales": {"a": {"as": "number", "root_of": "width", "if": "scaled", "default": True}},
                    "whole_where": {"layers.*.b": [{"slow": False}, {"text_config.tp": 1, "kind": None}]},
                },
            },
        },
        "4.0": {"bare": "Model", "classes": {"Model": "same"}},
    },
}


def test_the_data_of_this_release_are_sound() -> None:
    found = list(families.all_families())
    assert len(found) > 600
    for family in found:
        require_sound(family)


def damaged(release: dict[str, Any] | None = None, **entries: Any) -> dict[str, Any]:
    data = copy.deepcopy(SOUND)
    data["releases"]["5.0"] |= release or {}
    if entries:
        data["releases"]["5.0"]["classes"]["Model"] |= entries
    return data


def test_what_is_sound() -> None:
    require_sound(SOUND)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"family": "mine", "releases": []}, "no releases"),
        (damaged({"bare": 3}), "no bare class"),
        (damaged({"text": 3}), "a text model of no name"),
        (damaged({"inner": {"a": "b"}}), "no list of names"),
        (damaged({"classes": []}), "'classes' is no object"),
        (damaged({"classes": {"A": None}}), "A is no object"),
        (damaged(flags=["flag", "text_config.flag"]), "a tie in other states"),
        (damaged(flags="flag"), "Model's 'flags' is no short list of names"),
        (damaged(flags=["flag"] * 99), "Model's 'flags' is no short list of names"),
        (damaged(surprise=1), "Model's 'surprise' isn't known"),
        (damaged(modules="a(b"), "a bracket too few"),
        (damaged(modules="a) b"), "a bracket too many"),
        (damaged(modules="(a)"), "a bracket behind no name"),
        (damaged(modules="a:Q"), "a kind that isn't known"),
        (damaged(modules="a..b"), r"can't hold 'a\.\.b'"),
        (damaged(modules="a(" * 60 + "b" + ")" * 60), "more than 50 steps deep"),
        (damaged(modules=".".join("a" * 60)), "more than 50 steps deep"),
        (damaged(prefix="a b"), "can't be 'a b'"),
        (damaged(output=""), "can't be ''"),
        (damaged(older={"a": 3}), "can't be 3"),
        (damaged(fused="a"), "no list of names"),
        (damaged(float32=["("]), r"can't be '\('"),
        (damaged(float32_always=["*a*a*a*a"]), "can't be"),
        (damaged(scales={"a": {"as": "buffer"}}), "no one factor"),
        (damaged(scales={"a": {"as": "buffer", "value": 2, "root_of": "width"}}), "no one factor"),
        (damaged(scales={"a": {"as": "buffer", "value": 0}}), "no one factor"),
        (damaged(scales={"a": {"as": "buffer", "value": float("inf")}}), "no one factor"),
        (damaged(scales={"a": {"as": "paper", "value": 2}}), "held as 'paper'"),
        (damaged(scales={"a": {"as": "number", "value": 2, "if": "b"}}), "one of 'if' and 'default'"),
        (damaged(scales={"a": {"as": "number", "value": 2, "if": "b", "default": 3}}), "no flag"),
        (damaged(whole_where={"a": []}), "no groups of entries for a"),
        (damaged(whole_where={"a": [["b"]]}), "'a' is no object"),
        (damaged(whole_where={"a": [{"b": [1]}]}), "a value that config.json can't be held against"),
        (damaged(ties={}), "is no list"),
        (damaged(ties=[{**TIE, "stored": "c"}]), "stores another tensor"),
        (damaged(ties=[{**TIE, "tied": "FTX"}]), "in other states"),
        (damaged(ties=[{**TIE, "members": [1]}]), "no list of names"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not(data: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        require_sound(data)
