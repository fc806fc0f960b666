"""`tinylora cache`, and --no-cache of the commands that use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture

CASE = fixture("peft021-layers")

Run = Callable[..., Any]


def test_it_shows_what_is_kept_and_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tinylora: Run) -> None:
    monkeypatch.setenv("TINYLORA_CACHE_DIR", str(tmp_path / "kept"))
    packed = tmp_path / "packed.safetensors"
    words = ["convert", "packed", CASE.adapter, "--base", CASE.base, "-o", packed, "-f", "-q"]
    assert tinylora(*words, "--no-cache").code == 0
    assert json.loads(tinylora("cache", "--json").out)["sets"] == 0
    assert tinylora(*words).code == 0
    shown = tinylora("cache").out
    assert shown.startswith("1 set of factors, ")
    assert shown.split()[-1] == str(tmp_path / "kept")
    assert tinylora("cache", "--clear").out.startswith("Removed 1 set of factors, ")
    assert tinylora("cache").out.startswith("0 sets of factors, 0 bytes of at most 2 GB")
    monkeypatch.setenv("TINYLORA_CACHE_DIR", "")
    assert tinylora("cache").out == "Nothing is kept: there is no directory for it\n"
