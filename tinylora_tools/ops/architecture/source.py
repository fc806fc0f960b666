"""The source of a method as statements, and what can be seen in it without following it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

#: What a tensor is asked for without its values.
_ASKED = {"device", "dim", "dtype", "is_meta", "ndim", "numel", "requires_grad", "shape", "size"}
#: Functions and methods that look at a tensor's type alone.
_LOOKS = {"getattr", "hasattr", "id", "isinstance", "len", "new_zeros", "to", "type", "type_as"}


@cache
def definition(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """A function's definition; None where no source is to be had."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return None
    found = tree.body[0] if tree.body else None
    return found if isinstance(found, ast.FunctionDef) else None


def is_weight(node: ast.AST) -> bool:
    """Whether a node reads something's weight."""
    return isinstance(node, ast.Attribute) and node.attr == "weight" and isinstance(node.ctx, ast.Load)


def read_in(node: ast.AST) -> Iterator[ast.AST]:
    """The children of a node whose values count: not those that are compared, or asked for their type alone."""
    if isinstance(node, ast.Compare):
        return
    if isinstance(node, ast.Attribute) and node.attr in _ASKED and is_weight(node.value):
        return
    called = isinstance(node, ast.Call) and (getattr(node.func, "attr", None) or getattr(node.func, "id", None))
    for child in ast.iter_child_nodes(node):
        if not (called in _LOOKS and is_weight(child)):
            yield child


@cache
def reads_weights(function: Callable[..., Any]) -> bool:
    """Whether a method reads the weight of anything but `self`."""
    node = definition(function)
    return node is not None and any(
        is_weight(one) and not (isinstance(one.value, ast.Name) and one.value.id == "self")  # type: ignore[attr-defined]
        for one in ast.walk(node)
    )


@cache
def hands_over(function: Callable[..., Any]) -> frozenset[str]:
    """Attributes of `self`, such as "decoder.embed_tokens", that a method hands to another function."""
    node = definition(function)
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)] if node else []
    given = (value for call in calls for value in (*call.args, *(keyword.value for keyword in call.keywords)))
    chains = (chain(value) for value in given)
    return frozenset(".".join(parts[1:]) for parts in chains if len(parts) > 1 and parts[0] == "self")


def chain(node: ast.AST) -> list[str]:
    """The names in `self.config.width`; none in what is no chain of attributes."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []
