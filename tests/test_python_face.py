"""The public names of `tinylora_tools`: what they cost, what they take, and that their page says what they do."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixture_data import fixture

import tinylora_tools as tl

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "python.md"
FUNCTIONS = [name for name in tl.__all__ if inspect.isfunction(getattr(tl, name))]

#: How many arguments may be given by their place: seed, u, r and n are one shape.
POSITIONAL = dict.fromkeys(FUNCTIONS, 3) | {"draw_projection": 4}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixtures name their bases from the repository's root."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("page", "examples"), [(PAGE, 50), (ROOT / "README.md", 3)], ids=["python.md", "README.md"])
def test_pages_say_what_the_functions_do(page: Path, examples: int) -> None:
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted >= examples
    assert result.failed == 0


def test_the_package_says_what_it_does() -> None:
    result = doctest.testmod(tl)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_page_writes_nothing_here() -> None:
    """Every output on the page is in its temporary directory."""
    calls = re.findall(r"tl\.(?:merge|init|factor|project|to_lora|to_peft|pack)\([^\n]*, (\S+) / ", PAGE.read_text())
    assert calls
    assert set(calls) == {"out"}
    assert ">>> directory.cleanup()" in PAGE.read_text()


@pytest.mark.parametrize("code", ["import tinylora_tools", "from tinylora_tools import TinyLoraError, __version__"])
def test_importing_costs_nothing(code: str) -> None:
    asked = "; import sys; print([m for m in ('numpy', 'torch', 'click', 'rich', 'safetensors') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code + asked], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


def test_public_names_are_listed_once_and_sorted() -> None:
    tree = ast.parse(Path(tl.__file__).read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If))  # if TYPE_CHECKING
    seen = [alias.name for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert tl.__all__ == sorted(tl.__all__) == sorted(seen) == sorted(tl._HOMES)
    assert set(tl.__all__) <= set(dir(tl))


@pytest.mark.parametrize("name", tl.__all__)
def test_public_names_resolve_and_are_documented(name: str) -> None:
    home = importlib.import_module(f"tinylora_tools.{tl._HOMES[name]}")
    assert getattr(tl, name) is getattr(home, name)
    assert getattr(tl, name).__module__ == home.__name__
    assert getattr(tl, name).__doc__
    assert re.search(rf"(tl\.|`){name}\b", PAGE.read_text())


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tl.nothing  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_behind_the_first_are_given_by_name(name: str) -> None:
    parameters = inspect.signature(getattr(tl, name)).parameters.values()
    kinds = [parameter.kind for parameter in parameters]
    assert set(kinds) <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= POSITIONAL[name]
    by_name = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name != "base"]
    assert all(one.default is not inspect.Parameter.empty for one in by_name)


@pytest.mark.parametrize("name", ["peft021-13-numbers", "peft021-pickled", "peft019-two"])
def test_paths_and_open_adapters_are_the_same(name: str, tmp_path: Path) -> None:
    path = fixture(name).adapter.relative_to(ROOT)
    given = {"text": str(path), "path": path, "open": tl.load_adapter(path), "again": tl.load_adapter(str(path)).on()}
    reports = {how: tl.inspect(adapter) for how, adapter in given.items()}
    assert all(report == reports["text"] for report in reports.values())
    merged = {}
    for how, adapter in given.items():
        tl.merge(adapter, tmp_path / how)
        files = sorted(one for one in (tmp_path / how).rglob("*") if one.is_file())
        merged[how] = {one.relative_to(tmp_path / how): one.read_bytes() for one in files}
    assert merged["text"]
    assert all(files == merged["text"] for files in merged.values())
