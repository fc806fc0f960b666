"""The screens of `tinylora architecture`, and --architecture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import small_families
import torch
import transformers


def test_screen_json_and_the_option(tmp_path: Path, tinylora: Callable[..., Any]) -> None:
    config = small_families.small_config("gemma3_text")
    base = tmp_path / "base"
    small_families.random_model(transformers.Gemma3ForCausalLM, config, torch.float32).save_pretrained(base)
    result = tinylora("architecture", base, "-o", tmp_path / "it.json")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        f"Gemma3ForCausalLM of transformers {transformers.__version__} (gemma3_text)",
        "  modules   1 Embedding, 28 Linear",
        "  tied      model.embed_tokens.weight = lm_head.weight",
        "  scaled    model.embed_tokens by 5.65685",
        f"{tmp_path / 'it.json'} describes Gemma3ForCausalLM, Gemma3TextModel, Gemma3TextForSequenceClassification.",
    ]
    report = json.loads(tinylora("architecture", base, "--json").out)
    assert report["output"] is None
    assert report["scaled"] == {"model.embed_tokens": 32**0.5}
    counted = tinylora("count", base, "--architecture", tmp_path / "it.json", "--json")
    assert counted.code == 0
    wrong = tinylora("count", base, "--architecture", base / "config.json")
    assert wrong.code == 1
    assert "this is no architecture file" in wrong.err
    assert "tinylora architecture BASE -o FILE" in wrong.err
