"""What a configuration says of ties."""

from __future__ import annotations

from typing import Any

import pytest

from tinylora_tools.bases.architectures.ties import agreed, state_of, unclear


@pytest.mark.parametrize(
    ("config", "text", "state"),
    [
        ({}, "", 0),
        ({"tie_word_embeddings": None}, "", 0),
        ({"tie_word_embeddings": True}, "", 1),
        ({"tie_word_embeddings": False}, "", 2),
        ({"text_config": {"tie_word_embeddings": False}}, "text_config", 2),
        ({"tie_word_embeddings": True}, "text_config", 3),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, "text_config", 7),
        ({"a": {"b": {"tie_word_embeddings": True}}}, "a.b", 1),
        ({"a": "no dictionary"}, "a.b", 0),
    ],
    ids=str,
)
def test_states_are_numbered_as_the_data_list_them(config: dict[str, Any], text: str, state: int) -> None:
    assert state_of(config, text) == state


def test_what_releases_disagree_on_is_not_known() -> None:
    tie = {"members": ["a.weight", "b.weight"], "stored": "a.weight", "tied": "TTF"}
    [same] = agreed([(0, [tie]), (0, [tie])])
    assert (same.members, same.stored, same.holds, same.optional) == (("a.weight", "b.weight"), "a.weight", True, True)
    [apart] = agreed([(2, [tie]), (2, [tie])])
    assert apart.holds is False
    [doubtful] = agreed([(0, [tie]), (0, [{**tie, "tied": "FTF"}])])
    assert doubtful.holds is None
    [of_one] = agreed([(0, [tie]), (0, [])])
    assert of_one.holds is None
    [fast] = agreed([(2, [{**tie, "tied": "TTT"}])])
    assert (fast.holds, fast.optional) == (True, False)


def test_a_part_that_stays_together_keeps_the_whole_from_being_undone() -> None:
    """BART's three embeddings in transformers 4, of which its head alone can be untied."""
    names = ["shared.weight", "encoder.weight", "decoder.weight", "lm_head.weight"]
    whole = {"members": names, "stored": names[0], "tied": "TTF"}
    part = {"members": names[:3], "stored": names[0], "tied": "TTT"}
    assert [(len(t.members), t.holds, t.optional) for t in agreed([(0, [whole]), (0, [part, whole])])] == [
        (4, True, False),
        (3, True, False),
    ]
    assert [(len(t.members), t.holds, t.optional) for t in agreed([(2, [whole]), (2, [part, whole])])] == [
        (4, False, False),
        (3, None, False),
    ]


def test_a_flag_where_the_data_have_no_states() -> None:
    assert unclear({"thinker": {"tie_word_embeddings": True}}, "thinker.text") is not None
    assert unclear({"tie_word_embeddings": True, "thinker": {"text": {}}}, "thinker.text") is None
    assert unclear({"tie_word_embeddings": True}, "") is None
    assert unclear({"share_encoder_decoder_embeddings": False}, "") is not None
