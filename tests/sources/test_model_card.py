"""A card's head, read back by huggingface_hub."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from tinylora_tools.sources.model_card import is_repository, model_card, one_line

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


@pytest.mark.parametrize("name", ["a/b", "Qwen/Qwen2.5-0.5B", "o_o/x-1.2_3"])
def test_names_of_repositories(name: str) -> None:
    assert is_repository(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "a/b/c",
        "/a/b",
        "./a",
        "~/a",
        "../a",
        "a/b\n",
        "a/b\nlicense: mit",
        "a/b: c",
        "a/ b",
        "a/b\u2028c",
        "é/b",
    ],
)
def test_names_that_no_repository_has(name: str) -> None:
    assert not is_repository(name)


def test_a_name_starts_no_line() -> None:
    assert one_line("a\n---\nlicense: mit\r\u2028\x1b") == "a\\n---\\nlicense: mit\\r\\u2028\\x1b"
