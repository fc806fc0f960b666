"""The documents say what the commands do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixture_data import fixture

import tinylora_tools as tl
from tinylora_tools.cli.convert import FORMS
from tinylora_tools.cli.main import ABOUT, COMMANDS, group

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "examples" / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("name", [*COMMANDS, *ABOUT])
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


def shown_in_readme() -> list[tuple[str, str]]:
    """Each command of README's console blocks, with what is shown of its output."""
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M)
    runs = [run for block in blocks for run in re.split(r"^\$ ", block, flags=re.M) if run]
    return [(command, output) for command, _, output in (run.partition("\n") for run in runs)]


@pytest.mark.parametrize(("command", "shown"), shown_in_readme(), ids=[command for command, _ in shown_in_readme()])
def test_readme_shows_what_is_printed(command: str, shown: str, tmp_path: Path) -> None:
    """All of it, or its beginning in front of an ellipsis, but for the seconds that it took."""
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    arguments = [sys.executable, "-m", "tinylora_tools", *command.split()[1:]]
    process = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path, check=True)
    printed, expected = (re.sub(r"in [0-9.]+ s$", "in _ s", t, flags=re.M) for t in (process.stdout.decode(), shown))
    beginning, ellipsis, _ = expected.partition("  ...\n")
    assert printed.startswith(beginning) if ellipsis else printed == expected


def test_ci_finds_readmes_test_command() -> None:
    pattern = re.search(r"grep -m1 -E '([^']+)' README\.md", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert re.search(pattern[1], (ROOT / "README.md").read_text(), re.M)


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "fixtures" / "README.md", ROOT / "examples" / "README.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_prose_fits(page: Path) -> None:
    """Lines of at most 120 characters, but for tables and code."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_many_adapters_become_lora_as_serving_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = fixture("peft021-layers")
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "serving.md").read_text(), re.S | re.M)
    (block,) = [block for block in blocks if "to_lora" in block]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(case.base, "BASE")
    for name in ("first", "second"):
        tl.pack(case.adapter, f"{name}.safetensors", base="BASE")
    exec(block, {})  # noqa: S102 - it is ours
    assert sorted(path.name for path in (tmp_path / "loras").iterdir()) == ["first", "second"]
