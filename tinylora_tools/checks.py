"""Arguments that have to be one of a few values, or at least a number: said in the caller's words."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import UnsupportedError
from .wording import argument

#: Floating-point dtypes as people write them, too.
SHORT_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

DTYPES = ("float32", "bfloat16", "float16")


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise UnsupportedError where an argument's value isn't one of a few."""
    if value not in choices:
        raise UnsupportedError(f"{argument(name, value)}, expected one of {', '.join(map(str, choices))}")


def at_least(name: str, value: int | None, least: int) -> None:
    """Raise UnsupportedError where an argument's value is a number below the least; None is none."""
    if value is not None and value < least:
        raise UnsupportedError(f"{argument(name, value)}, expected {least} or more")


def dtype_named(name: str, value: str, *others: str) -> str:
    """A dtype's name in full; UnsupportedError where it is neither a floating-point dtype nor one of the others."""
    full = SHORT_DTYPES.get(value, value)
    one_of(name, full, [*others, *DTYPES])
    return full
