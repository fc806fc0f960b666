"""A card's head, read back by huggingface_hub."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from tinylora_tools.sources.model_card import model_card

TEXT = "# Merged\n\n---\n\nadapter: `a`\n"


@pytest.mark.parametrize("tags", [["tinylora"], ["tinylora", "yes", "1.0", "a: b", "#c"], []], ids=str)
def test_the_hub_reads_what_was_written(tags: list[str]) -> None:
    card = ModelCard(model_card(TEXT, base_model="Qwen/Qwen2.5-0.5B", tags=tags), ignore_metadata_errors=False)
    assert card.data.to_dict() == {
        "base_model": "Qwen/Qwen2.5-0.5B",
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": tags,
    }
    assert card.text.strip() == TEXT.strip()


def test_without_a_base_there_is_no_relation_to_it() -> None:
    card = ModelCard(model_card(TEXT, base_model=None, tags=["tinylora"]), ignore_metadata_errors=False)
    assert card.data.to_dict() == {"library_name": "transformers", "tags": ["tinylora"]}


def test_the_head_comes_first() -> None:
    assert model_card(TEXT, base_model="a/b", tags=["t"]) == (
        "---\nbase_model: a/b\nlibrary_name: transformers\ntags:\n- t\nbase_model_relation: merge\n---\n\n" + TEXT
    )
