"""Layers whose weight the module around them takes, and doesn't call them: what wraps such a layer, as PEFT does, has
no effect there.

Read off the source, since no forward can be run without weights: a weight that is multiplied by, or handed on as it is.
Weights that go to a fused kernel, which only one of a module's paths uses, don't count, nor do those that are compared,
assigned or asked for their shape.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import cache
from typing import Any

_WEIGHT = r"self\.(\w+)\.weight"
_USES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_WEIGHT}\s*@",
        rf"@\s*{_WEIGHT}",
        rf"\b(?:linear|conv1d|conv2d)\([^\n]*?{_WEIGHT}(?!\[)",
        rf"{_WEIGHT}\.t\(\)",
        rf"\b[qkv]_proj_weight={_WEIGHT}",
        rf"torch\.cat\(\[[^\n]*?{_WEIGHT}\]",
        rf"(?m)^\s*\w+ = {_WEIGHT}(?:\.unsqueeze\(0\)\.repeat\(| if |\.clone\(\)|$)",
    )
)
#: Calls that are handed all weights of a module.
_ALL = re.compile(r"\bmulti_head_attention_forward\([^\n]*")
#: Methods that give weights their values.
_NO_FORWARD = {"__init__", "_init_weights", "tie_weights", "reset_parameters"}


@cache
def taken_by(module_class: Any) -> frozenset[str]:
    """Names of the children whose weight a class's own methods use without calling them."""
    try:
        source = textwrap.dedent(inspect.getsource(module_class))
    except (OSError, TypeError):
        return frozenset()
    found: set[str] = set()
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef) and node.name not in _NO_FORWARD:
            text = _on_lines(node)
            found.update(name for use in _USES for name in use.findall(text))
            found.update(name for call in _ALL.findall(text) for name in re.findall(_WEIGHT, call))
    return frozenset(found)


def _on_lines(node: Any) -> str:
    """A method's statements, one a line, however they were broken."""
    return "\n".join(ast.unparse(statement) for statement in ast.walk(node) if isinstance(statement, ast.stmt))
