"""Classes in Python files that are read, not imported: their parents, their attributes, the layers that they make."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any


class Source:
    """Files by their path, `package/module.py`."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self._trees: dict[str, ast.Module] = {}
        self._names: dict[str, dict[str, Any]] = {}

    def tree(self, path: str) -> ast.Module:
        if path not in self._trees:
            self._trees[path] = ast.parse(self.files[path])
        return self._trees[path]

    def literals(self, path: str) -> dict[str, Any]:
        """A file's constants that need nothing to be run."""
        found = {}
        for node in self.tree(path).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    found[node.targets[0].id] = literal(node.value)
                except ValueError:
                    continue
        return found

    def path_of(self, module: str) -> str | None:
        place = module.replace(".", "/")
        return next((path for path in (f"{place}.py", f"{place}/__init__.py") if path in self.files), None)

    def find(self, module: str, name: str) -> Class | None:
        """A class, where a module defines it or has it from another that is at hand."""
        seen = set()
        while (path := self.path_of(module)) is not None and (module, name) not in seen:
            seen.add((module, name))
            found = self._known(path, module).get(name)
            if isinstance(found, ast.ClassDef):
                return Class(self, module, found)
            if found is None:
                return None
            module, name = found
        return None

    def classes(self, module: str) -> Iterator[Class]:
        path = self.path_of(module) or ""
        yield from (Class(self, module, node) for node in self.tree(path).body if isinstance(node, ast.ClassDef))

    def _known(self, path: str, module: str) -> dict[str, Any]:
        """What names mean in a file: its classes, or a module and the name there."""
        if path not in self._names:
            package = module.split(".") if path.endswith("__init__.py") else module.split(".")[:-1]
            found: dict[str, Any] = {}
            for node in ast.walk(self.tree(path)):
                if isinstance(node, ast.ImportFrom):
                    above = package[: len(package) - node.level + 1] if node.level else []
                    place = ".".join([*above, *([node.module] if node.module else [])])
                    found |= {alias.asname or alias.name: (place, alias.name) for alias in node.names}
            found |= {node.name: node for node in self.tree(path).body if isinstance(node, ast.ClassDef)}
            self._names[path] = found
        return self._names[path]


@dataclass(frozen=True)
class Class:
    """A class in a module of a source."""

    source: Source
    module: str
    node: ast.ClassDef

    @property
    def name(self) -> str:
        return self.node.name

    def family(self) -> list[Class]:
        """The class and those that it comes from, nearest first; one that isn't at hand is left out."""
        found, waiting = [], [self]
        while waiting:
            one = waiting.pop(0)
            if one not in found:
                found.append(one)
                waiting += one._named(ast.unparse(base).partition("[")[0] for base in one.node.bases)
        return found

    def parts(self) -> list[Class]:
        """The class, its parents, and all classes among models that they name, and those that these name."""
        found, waiting = {}, self.family()
        while waiting:
            one = waiting.pop()
            if one.node not in found and ".models" in one.module:
                found[one.node] = one
                waiting += _mentioned(one)
        return list(found.values())

    def layers(self) -> set[tuple[str, str]]:
        """Attributes that the class or a part of it makes by a call, and what is called."""
        return {layer for one in self.parts() for layer in _layers(one)}

    def attribute(self, name: str) -> Any:
        """The value of a class's attribute, its own or a parent's; None where it needs something to be run."""
        for one in self.family():
            value = _own(one.node, name)
            if value is None:
                continue
            if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
                return next((other.attribute(value.attr) for other in one._named([value.value.id])), None)
            try:
                return literal(value)
            except ValueError:
                return None
        return None

    def entries(self, name: str) -> dict[str, Any]:
        """What is put into a dict of the class when an instance is made."""
        found = {}
        for one in self.family():
            for node in ast.walk(one.node):
                target = node.targets[0] if isinstance(node, ast.Assign) else None
                if isinstance(target, ast.Subscript) and ast.unparse(target.value) == f"self.{name}":
                    found[literal(target.slice)] = literal(node.value)
        return found

    def expression(self, name: str) -> str | None:
        """As it is written."""
        return next((ast.unparse(value) for one in self.family() if (value := _own(one.node, name)) is not None), None)

    def _named(self, names: Any) -> list[Class]:
        found = [self.source.find(self.module, name) for name in dict.fromkeys(names)]
        return [one for one in found if one is not None]

    def __hash__(self) -> int:
        return id(self.node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Class) and other.node is self.node


@cache
def _mentioned(found: Class) -> list[Class]:
    return found._named(node.id for node in ast.walk(found.node) if isinstance(node, ast.Name))


@cache
def _layers(found: Class) -> set[tuple[str, str]]:
    return {
        (name, ast.unparse(value.func).rpartition(".")[2])
        for name, value in assigned(found.node)
        if isinstance(value, ast.Call)
    }


def _own(node: ast.ClassDef, name: str) -> ast.expr | None:
    return first_value(ast.Module([part for part in node.body if not isinstance(part, ast.FunctionDef)], []), name)


def literal(node: ast.AST) -> Any:
    """A value that is written out; ValueError where something has to be run for it."""
    return ast.literal_eval(node)  # type: ignore[arg-type]


def first_value(tree: ast.AST, name: str) -> Any:
    """The first value that a name gets anywhere in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return node.value
    return None


def functions(tree: ast.AST, name: str) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


def called(tree: ast.AST) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def uses(tree: ast.AST, *names: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(tree))


def assigned(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Attributes of self, and what they get."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and _is_self(target.value):
                    yield target.attr, node.value


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
