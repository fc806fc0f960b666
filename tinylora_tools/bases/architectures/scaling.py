"""What an embedding itself multiplies what it looks up by, as its configuration has it.

The data write it as {"as": "buffer" or "number"} with one of `root_of` and `value_of`, an entry of config.json (or
"width", the embedding's), or `value`; and `if` and `default`, where a flag of config.json decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import FormatError, UndeterminedError
from ...wording import argument

#: Larger than whatever an embedding is multiplied by, and small enough for a float.
_MOST = 1e30


@dataclass(frozen=True, slots=True)
class Scaling:
    """What an embedding itself multiplies what it looks up by: `factor`, held as a "buffer" of the weight's dtype or as
    a "number"."""

    held: Literal["buffer", "number"]
    factor: float


def scaling_of(scale: Mapping[str, Any], config: Mapping[str, Any] | None, module: str, width: int) -> Scaling | None:
    """The scaling of a module of this width; None where a flag says that there is none.

    Raises
    ------
    UndeterminedError
        If it depends on a configuration that isn't at hand.
    """
    if "if" in scale and not _entry(config, scale["if"], module, scale["default"]):
        return None
    if "value" in scale:
        return Scaling(scale["as"], float(scale["value"]))
    if "value_of" in scale:
        return Scaling(scale["as"], float(_entry(config, scale["value_of"], module)))
    root = width if scale["root_of"] == "width" else _entry(config, scale["root_of"], module)
    return Scaling(scale["as"], math.sqrt(root))


def _entry(config: Mapping[str, Any] | None, path: str, module: str, default: Any = None) -> Any:
    """An entry of the configuration, such as `text_config.scale_embedding`; the default where it is absent."""
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    value = default if value is None and config is not None else value
    if value is None or (default is None and (isinstance(value, bool) or not isinstance(value, (int, float)))):
        raise UndeterminedError(
            f"{module} may be scaled, which {path} in the base's config.json says",
            hint=f"Name the base's directory with {argument('base')}.",
        )
    if default is None and not 0 < value < _MOST:
        raise FormatError(
            f"{path} is {value!r}, by which {module} can't be scaled", where="config.json", hint="Restore that file."
        )
    return value
