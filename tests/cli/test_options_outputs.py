"""-o and --force, whichever command has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damage import snapshot

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def test_force_never_replaces_an_input(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    """Neither one whose place a temporary directory takes, nor one that is named by a file in it, nor the base."""
    adapter, base = copied("peft021-13-numbers")
    (tmp_path / "in" / "packed").mkdir()
    packed, weights = tmp_path / "in" / "packed" / "adapter.safetensors", adapter / "adapter_model.safetensors"
    assert tinylora("convert", "packed", adapter, "-o", packed, "--base", base).code == 0
    before = snapshot(tmp_path)
    for arguments, output, relation in (
        (("merge", packed), packed.parent, "holds the input"),
        (
            (
                "convert",
                "peft",
                packed,
            ),
            packed.parent,
            "holds the input",
        ),
        (
            (
                "convert",
                "lora",
                packed,
            ),
            base,
            "is the input",
        ),
        (
            (
                "convert",
                "peft",
                adapter,
            ),
            base,
            "is the input",
        ),
        (
            (
                "convert",
                "packed",
                adapter,
            ),
            weights,
            "lies inside the input",
        ),
        (
            (
                "convert",
                "packed",
                packed,
            ),
            packed,
            "is the input",
        ),
        (("merge", weights), adapter, "is the input"),
        (("merge", weights), adapter / "out", "lies inside the input"),
        (("project", adapter), base, "is the input"),
    ):
        result = tinylora(*arguments, "--base", base, "-o", output, "--force")
        assert (result.code, relation in result.err) == (1, True), (arguments, result)
    assert snapshot(tmp_path) == before
    assert tinylora("merge", packed, "--base", base, "-o", packed.parent / "out").code == 0  # beside it there is room
    assert tinylora("convert", "packed", adapter, "-o", adapter / "new.safetensors", "--base", base).code == 0


def test_force_never_replaces_a_base_that_only_the_adapter_names(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft021-13-numbers")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}))
    packed = tmp_path / "in" / "packed" / "p.safetensors"  # from there, ../base is the base too
    assert tinylora("convert", "packed", adapter, "-o", packed, "--base", base).code == 0
    before = snapshot(tmp_path)
    for arguments in (
        (
            "convert",
            "peft",
            adapter,
        ),
        (
            "convert",
            "lora",
            adapter,
        ),
        (
            "convert",
            "peft",
            packed,
        ),
        ("project", adapter),
    ):
        result = tinylora(*arguments, "-o", base, "--force")
        assert (result.code, "is the input" in result.err) == (1, True), (arguments, result)
    assert snapshot(tmp_path) == before
    assert tinylora("convert", "peft", adapter, "-o", tmp_path / "out").code == 0


def test_names_that_nothing_would_read_a_file_by(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft021-13-numbers")
    for arguments in (("factor", base), ("convert", "packed", adapter, "--base", base)):
        result = tinylora(*arguments, "-o", tmp_path / "p.bin")
        assert (result.code, result.out) == (1, "")
        assert "p.bin: expected the ending .safetensors" in " ".join(result.err.split())
        assert "Name it p.bin.safetensors" in result.err
    assert not list(tmp_path.glob("*p.bin*"))
