"""`tinylora convert gguf` in the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixture_data import fixture
from gguf_files import contents

CASE = fixture("peft021-13-numbers")


def test_what_was_written_and_how_it_is_served(tinylora: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "adapter.gguf"
    result = tinylora("convert", "gguf", CASE.adapter, "--base", CASE.base, "-o", out, "--scale", 2)
    assert result.code == 0, result.err
    first, second, third = result.out.splitlines()
    assert first.startswith(f"Wrote {out}: ")
    assert second == "  qwen2: 84 modules, rank 2, f32"
    assert third == f"  serve it: llama-server -m BASE.gguf --lora {out}"
    assert len(contents(out)[1]) == 168
    result = tinylora(
        "convert", "gguf", CASE.adapter, "--base", CASE.base, "-o", out, "--json", "-f", "--outtype", "auto"
    )
    report = json.loads(result.out)
    assert (report["to"], report["outtype"], report["architecture"]) == ("gguf", "bf16", "qwen2")
    assert report["serve"] == [f"llama-server -m BASE.gguf --lora {out}"]


def test_mistakes_are_told(complaint: Callable[..., str]) -> None:
    given = ("convert", "gguf", CASE.adapter, "--base", CASE.base, "-o")
    assert "expected the ending .gguf" in complaint(1, *given, "OUT")
    assert "'q4_0' is not one of" in complaint(2, *given, "OUT", "--outtype", "q4_0")
    tied = fixture("peft021-lm-head")
    said = complaint(1, "convert", "gguf", tied.adapter, "--base", tied.base, "-o", str(Path("OUT.gguf").absolute()))
    assert f"`tinylora merge {tied.adapter} -o MERGED`" in said
