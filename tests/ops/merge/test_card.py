"""The merged model's card: what it says, and what of the machine it doesn't."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from edited_files import edited_copy
from fixture_data import fixture
from huggingface_hub import ModelCard

from tinylora_tools import __version__, load_adapter
from tinylora_tools.ops.merge.card import card_of
from tinylora_tools.ops.merge.run import merge

CASE = fixture("peft021-13-numbers")


def card_for(directory: Path, *, tied: str = "kept", **config: Any) -> ModelCard:
    adapter = edited_copy(CASE.name, directory / "name", **config)
    opened = load_adapter(adapter, CASE.base)
    return ModelCard(card_of(CASE.base, [opened, opened], [1.0, -0.25], tied, 0.00234))


def test_the_card_says_what_was_merged(tmp_path: Path) -> None:
    card = card_for(tmp_path)
    line = "- name: r=2, u=13, weight_tying=1, 13 trained parameters, scale "
    assert card.text.strip() == (
        "# qwen2-bf16 with TinyLoRA merged\n\n"
        "The weights of qwen2-bf16 with the updates of these TinyLoRA adapters added:\n\n"
        f"{line}1\n{line}-0.25\n\n"
        f"Rounding changed the update by 0.0023 of its norm. Merged by tinylora-tools {__version__}.\n\n"
        "- name: PEFT 0.21.2, seed 42\n- name: PEFT 0.21.2, seed 42"
    )
    assert card.data.to_dict() == {"library_name": "transformers", "tags": ["tinylora", "merge"]}


def test_a_base_in_the_hub_s_cache_tells_its_commit_license_and_tags(tmp_path: Path) -> None:
    """Whatever the adapter calls it; nothing else of the base's own card comes along."""
    base = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    shutil.copytree(CASE.base, base)
    (base / "README.md").write_text("---\nlicense: mit\ntags: [chat]\npipeline_tag: x\n---\n# The base's own card\n")
    merge(CASE.adapter, tmp_path / "out", base)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.to_dict() == {
        "base_model": "owner/name",
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "mit",
        "tags": ["tinylora", "merge", "chat"],
    }
    assert f"- base: commit {'a' * 40}" in card.text.splitlines()
    assert "own card" not in card.content


@pytest.mark.parametrize(
    "head", ["---\nlicense: [\n---\n", "---\n- a\n---\n", "no head", "---\nlicense: {a: b}\n---\n"]
)
def test_a_base_s_card_that_cannot_be_read_says_nothing(head: str, tmp_path: Path) -> None:
    shutil.copytree(CASE.base, tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text(head)
    merge(CASE.adapter, tmp_path / "out", tmp_path / "base")
    assert "license" not in ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()


def test_a_base_on_the_hub_is_named_as_the_hub_reads_it(tmp_path: Path) -> None:
    card = card_for(tmp_path, base_model_name_or_path="Qwen/Qwen2.5-0.5B")
    assert card.text.strip().startswith("# Qwen/Qwen2.5-0.5B with TinyLoRA merged\n")
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("Qwen/Qwen2.5-0.5B", "merge")


@pytest.mark.parametrize(
    "name", ["a/b\nlicense: mit", "a/b\n---\n# Own", "a/b\r\nlicense: mit", 'a/b"\nlicense: mit', "a/b: {license: mit}"]
)
def test_a_name_of_a_base_says_nothing_but_itself(name: str, tmp_path: Path) -> None:
    """What is in the configuration becomes no line of the card: no license, no text."""
    card = card_for(tmp_path, base_model_name_or_path=name)
    assert card.data.to_dict() == {"library_name": "transformers", "tags": ["tinylora", "merge"]}
    assert "mit" not in card.content
    assert "Own" not in card.content


@pytest.mark.parametrize("name", ["/home/someone/model", "./model", "~/model", "../model", "model", None])
def test_no_path_of_the_machine_is_named(name: str | None, tmp_path: Path) -> None:
    card = card_for(tmp_path, base_model_name_or_path=name)
    assert "base_model" not in card.data.to_dict()
    for part in ("someone", "~", "..", str(tmp_path), str(CASE.base.parent)):
        assert part not in card.content
    assert card.text.strip().startswith("# qwen2-bf16 with")


@pytest.mark.parametrize(
    ("tied", "said"),
    [
        ("untie", "The base's tied embeddings were untied: the adapter changes one of them only."),
        ("share", "The base's tied embeddings share the update of the one that the adapter targets."),
    ],
)
def test_the_merged_model_s_card_tells_what_became_of_ties(tied: str, said: str, tmp_path: Path) -> None:
    case = fixture("peft021-lm-head")
    report = merge([case.adapter], tmp_path / "out", case.base, tied=tied)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert said in card.text.splitlines()
    assert f"Rounding changed the update by {report.delta_error:.2g} of its norm." in card.text
    assert "- adapter: r=2, u=3, weight_tying=0, 3 trained parameters, scale 1" in card.text.splitlines()
