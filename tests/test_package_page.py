"""What a package index shows of the project: links that lead somewhere, and the project's addresses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import package_page as script

ROOT = Path(__file__).parent.parent

WHERE = "owner/name", "v1"


def test_every_link_of_readme_is_absolute_and_what_it_was() -> None:
    text = (ROOT / "README.md").read_text()
    page = script.with_absolute_links(text, *WHERE)
    before, after = (re.findall(r"(!?)\[[^]]*\]\(([^)\s]+)\)", one) for one in (text, page))
    assert len(before) == len(after) > 30
    for (picture, was), (_, now) in zip(before, after, strict=True):
        if "://" in was or was.startswith("#"):
            assert now == was
            continue
        start = (
            "https://raw.githubusercontent.com/owner/name/v1/" if picture else "https://github.com/owner/name/blob/v1/"
        )
        assert now == start + was
        assert (ROOT / was.partition("#")[0]).exists()


def test_the_project_gets_its_addresses() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    before, after = tomllib.loads(text), tomllib.loads(script.with_urls(text, *WHERE))
    urls = after["project"].pop("urls")
    assert after == before
    assert urls["Source"] == "https://github.com/owner/name"
    assert all(url.startswith("https://github.com/owner/name") for url in urls.values())
