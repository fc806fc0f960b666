"""Data flows one way: cli, then ops, then sources, formats and core; errors are everybody's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tinylora_tools"

#: What each storey may import of this package, besides itself.
BELOW = {"errors", "progress", "wording"}
MAY: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "wording": set(),
    "core": BELOW,
    "formats": BELOW,
    "sources": {*BELOW},
    "output": {*BELOW, "formats", "core"},
    "bases": {*BELOW, "formats", "core", "sources", "output"},
    "adapters": {*BELOW, "formats", "core", "sources", "output", "bases"},
    "ops": {*BELOW, "formats", "core", "sources", "output", "bases", "adapters", "__version__"},
    "cli": {*BELOW, "formats", "core", "sources", "output", "bases", "adapters", "ops", "__version__"},
}
ONLY_IN = {"click": "cli", "rich": "cli", "huggingface_hub": "sources"}


def imports(path: Path) -> set[str]:
    """Modules that a file imports: absolute ones by their first name, relative ones as `.part`."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            inside = path.relative_to(PACKAGE).parts[: depth - node.level]
            target = [*inside, *(node.module or "").split(".")] if node.module else list(inside)
            found |= {f".{target[0]}"} if target else {f".{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part in ("__init__", "__main__"):
        return
    for name in imports(path):
        if name.startswith("."):
            assert name[1:] in {part, *MAY[part]}, f"{part} imports {name[1:]}"
        assert ONLY_IN.get(name, part) == part, f"{part} imports {name}"
        assert name not in ("transformers", "peft")


def test_modules_are_one_idea() -> None:
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 300}
    assert long == {}
    assert not list(PACKAGE.rglob("utils.py"))
