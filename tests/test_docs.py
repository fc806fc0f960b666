"""The documents say what the commands do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tinylora_tools.cli.convert import FORMS
from tinylora_tools.cli.main import COMMANDS, group

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert f"tinylora {name}" in (ROOT / "README.md").read_text()
    assert f"tinylora {name}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_documents_exist(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(rf"tinylora convert (?!{'|'.join(FORMS)}|`)", text)
    for name in (*COMMANDS, *(f"convert {form}" for form in FORMS)):
        known = CliRunner().invoke(group, [*name.split(), "--help"]).output
        if name == "convert":  # a group, whose forms have options
            continue
        for line in re.findall(rf"tinylora {name}( [^`\n]*)", text):
            for option in re.findall(r"(?<= )--[a-z-]+", line):
                assert option in known, (name, option)


def test_readme_shows_what_inspect_prints() -> None:
    shown = re.search(r"\$ tinylora inspect (\S+)\n(.*?)\n  \.\.\.", (ROOT / "README.md").read_text(), re.S)
    assert shown is not None
    command = [sys.executable, "-m", "tinylora_tools", "inspect", shown[1]]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.startswith(shown[2])


def test_ci_finds_readmes_test_command() -> None:
    assert re.search(r"^python3 -m venv .* -m pytest$", (ROOT / "README.md").read_text(), re.M)
