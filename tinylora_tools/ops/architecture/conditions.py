"""Conditions in the source of modules: what they ask for, and whether they can be decided without running the model."""

from __future__ import annotations

import ast
from functools import cache
from typing import Any

from .source import chain


@cache
def condition(test: ast.expr) -> tuple[Any, frozenset[str]]:
    """A condition on variables, compiled, and their names; None for one that calls more than these functions, or asks
    where a tensor is or of which type: that is another where the model is used."""
    nodes = list(ast.walk(test))
    attributes = {one.attr for one in nodes if isinstance(one, ast.Attribute)}
    calls = any(isinstance(one, ast.Call) and not isinstance(one.func, ast.Name) for one in nodes)
    if calls or attributes & {"device", "dtype", "is_cuda", "is_meta"}:
        return None, frozenset()
    names = {one.id for one in nodes if isinstance(one, ast.Name)} - {"hasattr", "getattr", "isinstance"}
    return compile(ast.Expression(test), "<condition>", "eval"), frozenset(names)


def settings_in(test: ast.expr, module: Any) -> set[str]:
    """What a condition asks of a module besides which modules it has, and whether it is being trained."""
    nodes = list(ast.walk(test))
    within = {id(one.value) for one in nodes if isinstance(one, ast.Attribute)}
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            found.update(str(one.value) for one in node.args[1:2] if isinstance(one, ast.Constant))
        parts = chain(node) if id(node) not in within else []
        if len(parts) > 1 and parts[0] == "self" and not _is_structure(module, parts[1:]):
            found.add(parts[-1])
    return found - {"config", "training"}


def _is_structure(module: Any, parts: list[str]) -> bool:
    """Whether attributes lead to a module, or to where there could be one."""
    for part in parts:
        children = getattr(module, "_modules", {})
        if part not in children:
            return False
        module = children[part]
    return True
