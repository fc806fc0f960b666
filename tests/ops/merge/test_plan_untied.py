"""Merges that untie, of families for which programs know no head apart from the embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf_cases as cases
import pytest
import transformers

from tinylora_tools import merge

pytestmark = pytest.mark.filterwarnings("ignore")

EMBEDDING = {"model.embed_tokens": cases.Shape("Embedding", 32, 16)}


def merged(name: str, tmp_path: Path, **settings: Any) -> Any:
    case = cases.CASES[name]
    config = cases.config_of(case._replace(settings=case.settings | settings))
    getattr(transformers, case.class_name)(config).save_pretrained(tmp_path / "base")
    config_json, tensors = cases.tiny_adapter(EMBEDDING)
    adapter = cases.write_adapter(tmp_path / "adapter", (config_json, tensors))
    return merge(adapter, tmp_path / "merged", base=tmp_path / "base", release="5", verify_base=False)


@pytest.mark.parametrize(
    ("name", "tied", "apart"),
    [
        ("gemma", "SGLang, llama.cpp and mlx-lm", "transformers and vLLM"),
        ("gemma2", "vLLM, SGLang, llama.cpp and mlx-lm", "transformers"),
        ("cohere", "vLLM, SGLang, llama.cpp and mlx-lm", "transformers"),
    ],
)
def test_programs_that_serve_it_as_tied_are_named(name: str, tied: str, apart: str, tmp_path: Path) -> None:
    report = merged(name, tmp_path)
    assert report.tied == "untied"
    [warning] = [one for one in report.warnings if "head apart from its embedding" in one]
    assert f"{cases.CASES[name].class_name} {tied} know none" in warning
    assert f"Serve it with {apart}; for the others train adapters without embed_tokens and lm_head" in warning


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_other_families_are_served_as_they_are(name: str, tmp_path: Path) -> None:
    report = merged(name, tmp_path, tie_word_embeddings=True)
    assert report.tied == "untied"
    assert report.warnings == []


def test_a_merge_that_keeps_them_tied_has_nothing_to_say(tmp_path: Path) -> None:
    """As PEFT's own merge, on request."""
    merged("gemma", tmp_path)
    report = merge(
        tmp_path / "adapter", tmp_path / "b", base=tmp_path / "base", release="5", tied="share", verify_base=False
    )
    assert (report.tied, report.warnings) == ("shared", [])
