"""README's pictures are what the commands draw."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("make_pictures", ROOT / "scripts" / "make_pictures.py")
assert _SPEC is not None
assert _SPEC.loader is not None
script = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(script)


def test_pictures_are_up_to_date() -> None:
    made = script.pictures()
    assert {path.stem for path in script.PICTURES.iterdir()} == made.keys()
    for name, svg in made.items():
        assert (script.PICTURES / f"{name}.svg").read_text("utf-8") == svg, name


def test_readme_shows_them() -> None:
    shown = re.findall(r"!\[[^]]+\]\(docs/pictures/(\w+)\.svg\)", (ROOT / "README.md").read_text())
    assert sorted(shown) == sorted(path.stem for path in script.PICTURES.iterdir())
