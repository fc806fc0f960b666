"""Modules whose weight the model may take without calling them, as config.json has it.

The data write what keeps it from that as groups of entries with their defaults, {"slow_but_exact": false}: one group is
enough. With other values nobody has looked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import UndeterminedError
from ...wording import argument
from .hints import way_out


def require_whole(module: str, groups: Sequence[Mapping[str, Any]] | None, config: Mapping[str, Any] | None) -> None:
    """Check that config.json, if it decides on a module, has the entries of one of the groups.

    Raises
    ------
    UndeterminedError
        If it hasn't, or isn't at hand.
    """
    if groups is None or any(all(_has(config, *entry) for entry in group.items()) for group in groups):
        return
    where = " or ".join(
        " and ".join(f"{path} is {json.dumps(value)}" for path, value in group.items()) for group in groups
    )
    raise UndeterminedError(
        f"{module} is known to do no more than its kind where {where} in the base's config.json; with anything else "
        "the model may use its weight, and not PEFT's update of it",
        hint=f"Name the base's directory with {argument('base')}." if config is None else way_out(),
    )


def _has(config: Mapping[str, Any] | None, path: str, default: Any) -> bool:
    """Whether an entry has its default, or is left out of a configuration that is at hand."""
    *parents, last = path.split(".")
    inner: Any = config
    for part in parents:
        inner = inner.get(part, {}) if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping):
        return False
    value = inner.get(last, default)
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)
