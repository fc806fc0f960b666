"""README's pictures are what the commands draw."""

from __future__ import annotations

import re
from pathlib import Path

import make_pictures as script

ROOT = Path(__file__).parent.parent


def test_pictures_are_up_to_date() -> None:
    made = script.pictures()
    assert {path.stem for path in script.PICTURES.iterdir()} == made.keys()
    for name, svg in made.items():
        assert (script.PICTURES / f"{name}.svg").read_text("utf-8") == svg, name


def test_readme_shows_them() -> None:
    shown = re.findall(r"!\[[^]]+\]\(docs/pictures/(\w+)\.svg\)", (ROOT / "README.md").read_text())
    assert sorted(shown) == sorted(path.stem for path in script.PICTURES.iterdir())
