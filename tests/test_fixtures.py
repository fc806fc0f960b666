"""fixtures/README.md is what fixtures/readme.py makes of the fixtures' own records."""

from __future__ import annotations

from pathlib import Path

import gguf_cases
import pytest
import readme
import recipe
from fixture_data import ROOT


def test_the_readme_is_what_the_script_makes() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert readme.written(text) == text, "run fixtures/readme.py"


@pytest.mark.parametrize("path", readme.directories(ROOT) + readme.directories(ROOT / "bases"), ids=lambda p: p.name)
def test_every_directory_is_in_the_readme(path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"`{path.relative_to(ROOT)}" in text


def test_every_fixture_is_in_the_recipe() -> None:
    assert {path.name for path in readme.directories(ROOT)} == {"bases", "gguf", *recipe.CASES}
    assert {path.name for path in readme.directories(ROOT / "bases")} == set(recipe.BASES)
    assert {path.name for path in readme.directories(ROOT / "gguf")} == set(gguf_cases.CASES)


def test_without_its_comments_the_readme_is_refused() -> None:
    with pytest.raises(SystemExit, match="comments"):
        readme.written("# Fixtures\n")
