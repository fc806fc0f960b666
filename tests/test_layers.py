"""Data flows one way: cli, then ops and nn, adapters, bases, then sources and output, then formats and core; errors are
everybody's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tinylora_tools"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: What each storey may import of this package, besides itself.
GROUND = {"errors", "progress", "wording", "checks", "inputs", "workers", "ranks"}
MAY: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "wording": set(),
    "workers": {"ranks"},
    "ranks": {"errors"},
    "checks": {"errors", "wording"},
    "inputs": {"errors"},
    "core": GROUND,
    "formats": GROUND,
    "sources": {*GROUND, "formats"},
    "output": {*GROUND, "formats", "core"},
    "bases": {*GROUND, "formats", "core", "sources", "output"},
    "adapters": {*GROUND, "formats", "core", "sources", "output", "bases"},
    "ops": {*GROUND, "formats", "core", "sources", "output", "bases", "adapters", "__version__"},
    "nn": {*GROUND, "formats", "core", "sources", "output", "bases", "adapters", "__version__"},
    "cli": {*GROUND, "formats", "core", "sources", "output", "bases", "adapters", "ops", "__version__"},
}
ONLY_IN = {"click": "cli", "rich": "cli", "huggingface_hub": "sources"}

#: A process of its own, in which another verb runs.
WORKERS = {("ops/verify/worker.py", "merge")}


def in_package(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).parts


def imports(path: Path) -> set[str]:
    """Modules that a file imports, or runs in another process: those of this package as `.part.part`, others by their
    first name."""
    found = set(_imported(ast.parse(path.read_text()), in_package(path)[:-1]))
    return found | set(_run_elsewhere(path))


def _imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_named(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield _named(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            inside = package[: len(package) - node.level + 1]
            target = [*inside, *(node.module or "").split(".")] if node.module else list(inside)
            yield from (["." + ".".join(target)] if target else [f".{alias.name}" for alias in node.names])


def _named(module: str) -> str:
    first, _, rest = module.partition(".")
    return f".{rest}" if first == "tinylora_tools" else first


def _run_elsewhere(path: Path) -> Iterator[str]:
    """What a list of a command's words names behind -m, or has for -c."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.List):
            continue
        words = [part.value if isinstance(part, ast.Constant) else None for part in node.elts]
        for flag, word, part in zip(words, words[1:], node.elts[1:], strict=False):
            if flag == "-m" and isinstance(word, str):
                yield _named(word)
            elif flag == "-c":
                code = word if isinstance(word, str) else _constant(path, part)
                yield from _imported(ast.parse(code), ())


def _constant(path: Path, name: ast.expr) -> str:
    """The text of a module's constant."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == ast.unparse(name):
            text = ast.literal_eval(node.value)
            assert isinstance(text, str)
            return text
    raise AssertionError(f"{path}: {ast.unparse(name)} isn't known")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "/".join(in_package(path)))
def test_imports_point_one_way(path: Path) -> None:
    part = in_package(path)[0].removesuffix(".py")
    if part in ("__init__", "__main__"):
        return
    for name in imports(path):
        if name.startswith("."):
            target = name[1:].partition(".")[0]
            assert target in {part, *MAY[part]}, f"{part} imports {target}"
        assert ONLY_IN.get(name, part) == part, f"{part} imports {name}"
        assert name != "peft" or in_package(path) == ("nn", "peft_patch.py")
        assert name != "transformers" or in_package(path)[:2] == ("ops", "architecture")


@pytest.mark.parametrize("path", sorted((PACKAGE / "ops").rglob("*.py")), ids=lambda path: "/".join(in_package(path)))
def test_one_verb_does_not_import_another(path: Path) -> None:
    own = in_package(path)[1].removesuffix(".py")
    for name in imports(path):
        if not name.startswith(".ops."):
            continue
        verb = name.split(".")[2]
        if (PACKAGE / "ops" / verb).is_dir() or own == verb:
            assert verb == own or ("/".join(in_package(path)), verb) in WORKERS, f"{own} imports {verb}"


def test_processes_that_are_started_are_seen() -> None:
    assert ".ops.verify.worker" in imports(PACKAGE / "ops" / "verify" / "worker.py")
    assert "torch" in imports(PACKAGE / "ops" / "verify" / "machine.py")
    starters = [path for path in MODULES if "subprocess." in path.read_text()]
    assert {"/".join(in_package(path)) for path in starters} == {
        "ops/verify/worker.py",
        "ops/verify/machine.py",
        "ops/doctor.py",
    }


def test_only_staging_flushes_to_the_disk() -> None:
    """A merge's background flush is for speed; what counts is done before the renaming."""
    flushing = {"/".join(in_package(path)) for path in MODULES if "fsync" in path.read_text()}
    assert flushing == {"output/staging.py", "ops/merge/writing/write.py"}


def test_modules_are_one_idea() -> None:
    long = {p.name: n for p in MODULES if (n := len(p.read_text().splitlines())) > 300}
    assert long == {}
    assert not list(PACKAGE.rglob("utils.py"))
    folders: dict[Path, int] = {}
    for path in MODULES:
        folders[path.parent] = folders.get(path.parent, 0) + (path.name != "__init__.py")
    assert max(folders.values()) <= 16


def test_tests_mirror_the_package() -> None:
    """tests/a/test_b.py, or test_b_<topic>.py, for tinylora_tools/a/b.py; only what is about several modules stands at
    the top."""
    tests = ROOT / "tests"
    mirrored = {folder: list((tests / folder).rglob("test_*.py")) for folder in MAY if (tests / folder).is_dir()}
    modules = {path.relative_to(PACKAGE).with_suffix("") for path in MODULES if not path.name.startswith("__")}
    covered = set()
    for path in (path for paths in mirrored.values() for path in paths):
        place = path.relative_to(tests).parent
        name = path.stem.removeprefix("test_")
        about = {module for module in modules if module.parent == place and f"{name}_".startswith(f"{module.name}_")}
        assert about, f"{path.relative_to(tests)} is about no module"
        if place / name in modules:
            covered.add(place / name)
    covered |= {module for module in modules if len(module.parts) == 1 and (tests / f"test_{module.name}.py").is_file()}
    assert sorted(map(str, modules - covered)) == []
