"""What may be written to a terminal, and how numbers look there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table


def printable(text: str) -> str:
    """Text from a file, with what could steer a terminal (control and format characters) made visible."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def print_json(report: Any) -> None:
    """A report's dataclass as JSON on stdout; NaN and Inf, which JSON hasn't, never occur in one."""
    if not is_dataclass(report) or isinstance(report, type):
        raise TypeError(f"{report!r} is no report")
    click.echo(json.dumps(asdict(report), indent=2, ensure_ascii=True, allow_nan=False))


def print_warnings(warnings: Iterable[str]) -> None:
    """Warnings on stderr, one a line."""
    for warning in warnings:
        click.secho("warning: ", fg="yellow", nl=False, err=True)
        click.echo(printable(warning), err=True)


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


def new_table(first: str, *others: str, left: tuple[str, ...] = ()) -> Table:
    """A plain table; columns are aligned right but the first, or those in `left`."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for position, name in enumerate((first, *others)):
        table.add_column(name, justify="left" if name in left or (not position and not left) else "right", no_wrap=True)
    return table


def print_table(table: Table) -> None:
    """A table on stdout, as wide as it needs to be where that is no terminal."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=1000)  # a pipe has no width to fit
    click.echo()
    console.print(table)


def bars(shares: Iterable[float]) -> str:
    """Shares of 1 as a row of bars, each an eighth of a line high per eighth; nothing shows below a sixteenth."""
    return "".join(
        " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"[round(8 * min(1.0, max(0.0, x)))] for x in shares
    )
