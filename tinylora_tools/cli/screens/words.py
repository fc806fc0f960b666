"""Texts and numbers as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def printable(text: str) -> str:
    """Text from a file, with what could steer a terminal, or pass for a line of ours (control and format characters),
    made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def size(count: int) -> str:
    """Bytes for people: exact up to 9999, then with a unit of 1000."""
    if count < 10_000:
        return f"{count} bytes" if count != 1 else "1 byte"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.3g} {unit}"


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 group`, `2 groups`, `13 parameters`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def scientific(value: float | None) -> str:
    """A figure whose size is what counts; nothing for None."""
    return "" if value is None else f"{value:.1e}"


def extent(values: Iterable[T], written: str = "{}") -> str:
    """The one value, or the least and the largest: `16`, `16 to 24`."""
    found = list(values)
    least, most = (written.format(f(found)) for f in (min, max))  # type: ignore[type-var]
    return least if least == most else f"{least} to {most}"


def bars(shares: Iterable[float]) -> str:
    """Shares of 1 as a row of bars, each an eighth of a line high per eighth; nothing shows below a sixteenth."""
    return "".join(
        " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"[round(8 * min(1.0, max(0.0, x)))] for x in shares
    )


def kind_of(module: str) -> str:
    """The kind of layer that a module is: the last part of its name that is no number."""
    return next((part for part in reversed(module.split(".")) if not part.isdigit()), module)


def by_kind(rows: Iterable[T], name: str = "name") -> dict[str, list[T]]:
    """Rows of modules by the kind of layer, in the order in which kinds come up."""
    kinds: dict[str, list[T]] = {}
    for row in rows:
        kinds.setdefault(kind_of(getattr(row, name)), []).append(row)
    return kinds


def some_of(names: Iterable[str], count: int = 3, apart: str = ", ") -> str:
    """The first names, and how many more there are."""
    found = list(names)
    more = len(found) - count
    return apart.join(found[:count]) + (f" and {more} more" if more > 0 else "")
