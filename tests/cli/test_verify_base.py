"""`tinylora verify-base` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from damage import edit
from fixture_data import ROOT, fixture

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]
BASE = ROOT / "bases" / "qwen2-bf16"


def test_verify_base_exits_with_1_for_a_stranger(tinylora: Run) -> None:
    result = tinylora(
        "verify-base", fixture("peft021-13-numbers").adapter, "--base", ROOT / "bases" / "llama-fp32", "--json"
    )
    assert result.code == 1
    assert json.loads(result.out)["verdict"] == "other-model"


def test_a_base_is_no_adapter(complaint: Callable[..., str]) -> None:
    assert "no adapter here" in complaint(1, "verify-base", BASE, "--base", BASE)


def test_verify_base_names_the_worst_first(copied: Copied, tinylora: Run) -> None:
    adapter, base = copied("peft020-tiny")
    moved = "model.layers.1.mlp.up_proj"

    def stir(tensors: dict[str, Any]) -> None:
        noise = np.random.default_rng(0).standard_normal(tensors[f"{moved}.weight"].shape)
        tensors[f"{moved}.weight"] += (0.05 * np.std(tensors[f"{moved}.weight"]) * noise).astype(np.float32)

    edit(base / "model.safetensors", stir)
    result = tinylora("verify-base", adapter, "--base", base)
    lines = result.out.splitlines()
    assert result.code == 1
    assert lines[0] == f"{adapter} against {base}"
    assert lines[1].startswith("  14 modules: 1 fine-tuned, 13 same-weights; ")
    rows = [line.split()[:2] for line in lines if line.startswith("model.layers.")]
    assert (len(rows), rows[0]) == (14, [moved, "fine-tuned"])
    assert lines[-3:-1] == [
        f"fine-tuned: {moved}",
        "The factors are of a relative of this base: its weights have moved since; 15 tensors weren't looked at.",
    ]
    assert lines[-1].startswith("  next: Merge into the base that the adapter was trained on")
    assert len(json.loads(tinylora("verify-base", adapter, "--base", base, "--json").out)["modules"]) == 14


def test_words_say_what_was_looked_at(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft021-13-numbers")
    merged = tmp_path / "merged"
    assert tinylora("merge", adapter, "--base", base, "-o", merged, "--manifest").code == 0
    fit = "The targeted weights fit the adapter's factors; "

    def said(*more: object) -> tuple[int, list[str], str]:
        result = tinylora("verify-base", adapter, "--base", base, *more)
        lines = [line for line in result.out.splitlines() if line]
        return (
            result.code,
            [line for line in lines[2:] if not line.startswith(("model.", "Module", "\u2500", "`tinylora help "))],
            result.err,
        )

    code, lines, _ = said()
    assert (code, lines) == (0, [f"{fit}63 tensors weren't looked at."])
    code, lines, _ = said("--against", merged)
    by = f"  147 tensors compared by the manifest {merged / 'tinylora-manifest.json'}"
    assert (code, lines) == (0, [by, f"{fit}all 147 tensors are as recorded."])
    code, lines, err = said("--all")
    assert code == 1
    assert lines[0].startswith("  not compared: ")
    assert lines[0].endswith(" and 144 more")
    assert lines[1:] == [f"{fit}147 tensors weren't compared, for nothing records them."]
    assert "--against MERGED names a model that was merged from it with a manifest" in err

    def double(tensors: dict[str, Any]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2

    edit(base / "model.safetensors", double)
    assert said()[:2] == (0, [f"{fit}63 tensors weren't looked at."])
    code, lines, _ = said("--against", merged)
    assert (code, lines[1:]) == (
        1,
        ["  model.norm.weight: this tensor was changed", f"{fit}1 difference from what was recorded."],
    )


def test_records_that_are_not_there(tinylora: Run, complaint: Callable[..., str], tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    assert "no such file or directory" in complaint(1, "verify-base", case.adapter, "--against", tmp_path / "nothing")
    assert "holds no tinylora-manifest.json" in complaint(1, "verify-base", case.adapter, "--against", tmp_path)
    said = json.loads(tinylora("verify-base", case.adapter, "--base", case.base, "--all", "--json").out)
    assert (said["ok"], said["all_tensors"], said["tensors"], len(said["not_compared"])) == (False, True, 147, 147)
    assert said["modules"][0]["tensor"].endswith(".weight")
