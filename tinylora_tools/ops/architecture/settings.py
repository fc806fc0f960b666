"""Where in a configuration a setting of a module comes from, by the source of what made the module."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from .scales import entries
from .source import chain, definition


def entries_of(setting: str, module: Any, config: Mapping[str, Any]) -> list[str] | None:
    """The entries of config.json that a module's attribute has its value from.

    Parameters
    ----------
    setting : str
        An attribute of the module, or of its configuration.
    module : torch.nn.Module
    config : mapping
        What config.json has.

    Returns
    -------
    list of str or None
        Paths such as "text_config.hidden_act"; none for what is written in the code alone. None where that isn't
        known.
    """
    found = _ending(setting, config)
    if found:
        return found
    for one in type(module).__mro__:
        made = vars(one).get("__init__")
        node = definition(made) if inspect.isfunction(made) else None
        value = _assigned(setting, node) if node is not None else None
        if value is None:
            continue
        named = {parts[-1] for below in ast.walk(value) if "config" in (parts := chain(below))[:-1]}
        if named:
            paths = [_ending(name, config) for name in sorted(named)]
            return [path for some in paths for path in some] if all(paths) else None
        if isinstance(value, ast.Constant):
            return []
        if isinstance(value, ast.Name) and _is_default(made, value.id, getattr(module, setting, None)):
            return []
    return None


def _ending(name: str, config: Mapping[str, Any]) -> list[str]:
    return [path for path, _ in entries(config) if path.rpartition(".")[2] == name]


def _assigned(setting: str, node: ast.FunctionDef) -> ast.expr | None:
    """The value that `self` gets for an attribute."""
    for one in ast.walk(node):
        if isinstance(one, ast.Assign) and any(chain(target) == ["self", setting] for target in one.targets):
            return one.value
    return None


def _is_default(made: Any, parameter: str, value: Any) -> bool:
    known = inspect.signature(made).parameters.get(parameter)
    return known is not None and known.default is not known.empty and bool(known.default == value)
