"""The pages that are made, and the site."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import make_command_pages as script
import pytest

from tinylora_tools.cli.convert import FORMS
from tinylora_tools.cli.main import ABOUT, COMMANDS

ROOT = Path(__file__).parent.parent


def test_a_page_for_each_command_is_what_the_script_makes() -> None:
    written = {page.name: page.read_text("utf-8") for page in script.PAGES.iterdir()}
    assert written == script.pages()
    names = {*COMMANDS, *ABOUT, *(f"convert {form}" for form in FORMS)} - {"convert"}
    assert {name.replace(" ", "-") + ".md" for name in names} == written.keys() - {"index.md"}


def test_the_glossary_of_the_command_line_is_the_page_s() -> None:
    assert script.GLOSSARY.read_text("utf-8") == script.glossary()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mkdocs makes of the documents, with warnings as errors: links, anchors, pages that nothing leads to."""
    made = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(made)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


def test_each_document_is_a_page_whose_links_lead_to_pages(site: Path) -> None:
    pages = {page.relative_to(site).as_posix() for page in site.rglob("index.html")}
    for document in (*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "commands").glob("[!i]*.md")):
        assert f"{document.relative_to(ROOT / 'docs').with_suffix('').as_posix()}/index.html" in pages
    for name in ("index.html", "SECURITY/index.html", "merge/index.html", "commands/merge/index.html"):
        text = (site / name).read_text("utf-8")
        links = re.findall(r'href="([^":#]+)(?:#[^"]*)?"', text)
        assert len(links) > 20
        for link in links:
            to = (site / name).parent / link
            assert to.is_file() or (to / "index.html").is_file(), (name, link)


def test_links_to_what_is_no_page_are_text(site: Path) -> None:
    text = (site / "index.html").read_text("utf-8")
    assert "Apache License 2.0" in text
    assert "LICENSE" not in re.findall(r'href="([^"]*)"', text)
