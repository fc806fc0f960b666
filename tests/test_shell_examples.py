"""The shell lines of README and docs run, as they are written: those of this program, that is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import ROOT as FIXTURES
from fixture_data import fixture

from tinylora_tools import merge, pack

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Programs of others, which those pages show beside ours.
OTHERS = {
    "pip", "python", "python3", "llama-server", "ollama", "printf", "vllm", "mlx_lm.generate", "eval", "hf", "git",
    "torchrun", "#",
}  # fmt: skip

Run = Callable[..., Any]


def blocks() -> list[tuple[str, list[str]]]:
    """The lines of each block, with the page that it is on."""
    return [
        (page.name, block.splitlines())
        for page in PAGES
        for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.S | re.M)
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with all that examples name."""
    monkeypatch.chdir(tmp_path)
    case, old = fixture("peft021-layers"), fixture("peft019-seed-only")
    for name in ("base", "Qwen2.5-0.5B", "models/Mine-7B"):
        shutil.copytree(case.base, name)
    shutil.copytree(old.base, "models/Qwen2.5-0.5B")
    assert old.merged is not None
    for name, source in (("adapter", case.adapter), ("old-adapter", old.adapter), ("old-merged", old.merged)):
        shutil.copytree(source, name)
    (tmp_path / "fixtures").symlink_to(FIXTURES)  # which the adapters name as their base's
    merge("adapter", "merged", base="base", manifest=True)
    pack("adapter", "packed.safetensors", base="base")
    return tmp_path


@pytest.mark.usefixtures("inbox")
@pytest.mark.parametrize(("page", "lines"), blocks(), ids=[f"{page}: {lines[0]}" for page, lines in blocks()])
def test_lines_run(page: str, lines: list[str], place: Path, tinylora: Run) -> None:
    """One after the other; what they write is in nobody's way."""
    for line in lines:
        program, *words = shlex.split(line, comments=True) or ["#"]
        if program in OTHERS or "source" in words:
            continue
        assert program == "tinylora", line
        if "-o" in words and os.path.lexists(output := place / words[words.index("-o") + 1]):
            shutil.rmtree(output) if output.is_dir() else output.unlink()
        result = tinylora(*words)
        assert result.code == 0, (line, result)


def test_there_are_such_lines() -> None:
    ours = [line for _, lines in blocks() for line in lines if line.startswith("tinylora ")]
    assert len(ours) > 15
