"""What a configuration says of ties."""

from __future__ import annotations

from typing import Any

import pytest

from tinylora_tools.bases.architectures.described import Described
from tinylora_tools.bases.architectures.ties import Reading, Ties, agreed, state_of, untied_state

TOP = "tie_word_embeddings"


@pytest.mark.parametrize(
    ("config", "flags", "state"),
    [
        ({"a": True}, [], 0),
        ({}, [TOP], 0),
        ({TOP: None}, [TOP], 0),
        ({TOP: True}, [TOP], 1),
        ({TOP: False}, [TOP], 2),
        ({"text_config": {TOP: False}}, [TOP, f"text_config.{TOP}"], 2),
        ({TOP: True}, [TOP, f"text_config.{TOP}"], 3),
        ({TOP: False, "text_config": {TOP: True}}, [TOP, f"text_config.{TOP}"], 7),
        ({"a": {"b": {TOP: True}}}, [TOP, f"a.b.{TOP}"], 1),
        ({"a": "no dictionary"}, [TOP, f"a.b.{TOP}"], 0),
        ({"share_embeddings": False, TOP: True}, [TOP, f"a.{TOP}", "share_embeddings"], 11),
    ],
    ids=str,
)
def test_states_are_numbered_as_the_data_list_them(config: dict[str, Any], flags: list[str], state: int) -> None:
    assert state_of(config, flags) == state


def test_embeddings_are_untied_by_the_flags_of_that_name() -> None:
    assert untied_state({"share_embeddings": True}, [TOP, f"a.{TOP}", "share_embeddings"]) == 2 * 9 + 2 * 3 + 1


def test_what_releases_disagree_on_is_not_known() -> None:
    tie = {"members": ["a.weight", "b.weight"], "stored": "a.weight", "tied": "TTF"}
    [same] = agreed([Reading(0, 2, [tie]), Reading(0, 2, [tie])])
    assert (same.members, same.stored, same.holds, same.optional) == (("a.weight", "b.weight"), "a.weight", True, True)
    [apart] = agreed([Reading(2, 2, [tie]), Reading(2, 2, [tie])])
    assert apart.holds is False
    [doubtful] = agreed([Reading(0, 2, [tie]), Reading(0, 2, [{**tie, "tied": "FTF"}])])
    assert doubtful.holds is None
    [of_one] = agreed([Reading(0, 2, [tie]), Reading(0, 2, [])])
    assert of_one.holds is None
    [called_otherwise] = agreed([Reading(0, 2, [tie]), Reading(0, 2, [], lambda name: name == "a.weight")])
    assert called_otherwise.holds is True
    [fast] = agreed([Reading(2, 2, [{**tie, "tied": "TTT"}])])
    assert (fast.holds, fast.optional) == (True, False)


def test_a_part_that_stays_together_keeps_the_whole_from_being_undone() -> None:
    """BART's three embeddings in transformers 4, of which its head alone can be untied."""
    names = ["shared.weight", "encoder.weight", "decoder.weight", "lm_head.weight"]
    whole = {"members": names, "stored": names[0], "tied": "TTF"}
    part = {"members": names[:3], "stored": names[0], "tied": "TTT"}
    assert [
        (len(t.members), t.holds, t.optional) for t in agreed([Reading(0, 2, [whole]), Reading(0, 2, [part, whole])])
    ] == [
        (4, True, False),
        (3, True, False),
    ]
    assert [
        (len(t.members), t.holds, t.optional) for t in agreed([Reading(2, 2, [whole]), Reading(2, 2, [part, whole])])
    ] == [
        (4, False, False),
        (3, None, False),
    ]


def layers(*tied: dict[str, Any], flags: list[str]) -> Described:
    """A class with two lists of layers, of which the first is stored."""
    modules = "encoder.*.q decoder.*.q"
    return Described("5", "Class", {"modules": modules, "ties": list(tied), "flags": flags})


def test_a_tie_of_all_layers_is_one_of_each() -> None:
    tie = {"members": ["encoder.*.q.weight", "decoder.*.q.weight"], "stored": "encoder.*.q.weight", "tied": "TTF"}
    ties = Ties([[layers(tie, flags=[TOP])]], {}, "", fitted=False)
    found = ties.of("decoder.12.q.weight")
    assert found is not None
    assert found.members == ("encoder.12.q.weight", "decoder.12.q.weight")
    assert (found.stored, found.holds, found.optional) == ("encoder.12.q.weight", True, True)
    assert ties.of("decoder.12.k.weight") is None
    among = ties.among(["encoder.0.q.weight", "encoder.11.q.weight", "norm.weight"])
    assert [tie.stored for tie in among] == ["encoder.0.q.weight", "encoder.11.q.weight"]
    assert ties.unclear("decoder.12.q.weight") is None


def test_a_tie_of_some_layers_may_be_one_of_others_too() -> None:
    tie = {"members": ["encoder.0.q.weight", "encoder.6.q.weight"], "stored": "encoder.0.q.weight", "tied": "T"}
    ties = Ties([[layers(tie, flags=[])]], {}, "", fitted=False)
    assert "ties weights of its numbered layers" in (ties.unclear("encoder.3.q.weight") or "")
    assert ties.unclear("decoder.3.q.weight") is None
    assert Ties([[layers(tie, flags=[])]], {}, "", fitted=True).unclear("encoder.3.q.weight") is None


def test_a_flag_that_is_not_described_is_said_so() -> None:
    ties = Ties([[layers(flags=[])]], {"tie_encoder_decoder": True}, "", fitted=False)
    assert "tie_encoder_decoder" in (ties.unclear("encoder.0.q.weight") or "")


def test_what_has_to_be_false_for_embeddings_to_be_apart() -> None:
    one = layers(flags=["thinker.tie_word_embeddings", "share_embeddings"])
    assert Ties([[one]], {}, "a.b", fitted=False).flags == (TOP, f"a.b.{TOP}", f"thinker.{TOP}")
