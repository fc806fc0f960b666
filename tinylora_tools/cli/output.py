"""The one place that prints: reports as text or JSON on stdout, warnings, errors and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import TinyLoraError
from ..progress import NoProgress, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from rich.table import Table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Output:
    """How one command speaks: `as_json` puts its report as JSON on stdout, `quiet` leaves report and progress out.
    Warnings are on stderr, behind the report, and stay."""

    as_json: bool = False
    quiet: bool = False
    _said: set[str] = field(default_factory=set)

    def report(self, report: T, render: Callable[[T], None]) -> None:
        """Show a report, a dataclass with `warnings`: by `render`, or as JSON."""
        if not is_dataclass(report) or isinstance(report, type):
            raise TypeError(f"{report!r} is no report")
        fields: dict[str, Any] = asdict(report)
        if self.as_json:
            print_json(fields)
        elif not self.quiet:
            render(report)
        for text in fields["warnings"]:
            if text not in self._said:
                self.warn(text)

    def warn(self, text: str) -> None:
        """A warning on stderr, in a line; one that can't wait for the report isn't repeated behind it."""
        self._said.add(text)
        click.secho("warning: ", fg="yellow", nl=False, err=True)
        click.echo(printable(text), err=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A bar on a terminal, which goes away when the work is done; elsewhere nothing."""
        if self.quiet or not sys.stderr.isatty():
            yield NoProgress()
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[item]}", markup=False),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _BarProgress(bar, bar.add_task("", total=None, item="", visible=False))


class _BarProgress:
    """A `progress.Progress` that moves one bar, from the start for each piece of work."""

    def __init__(self, bar: Bar, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def start(self, what: str, total: int) -> None:
        self._bar.reset(self._task, total=total, description=what, visible=True, item="")

    def advance(self, done: int) -> None:
        self._bar.advance(self._task, done)

    def at(self, what: str) -> None:
        self._bar.update(self._task, item=printable(what))


def print_json(value: object) -> None:
    """JSON on stdout; null for NaN and Inf, which JSON hasn't, and a file may hold."""
    click.echo(json.dumps(_finite(value), indent=2, ensure_ascii=True, allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_error(error: TinyLoraError, *, as_json: bool) -> None:
    """What is wrong and what to do, on stderr; for who reads JSON as an object on stdout too."""
    if as_json:
        print_json({"error": {"message": error.what, "where": error.where, "hint": error.hint}})
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(printable(str(error)), err=True)
    if error.hint:
        click.secho("  next: ", bold=True, nl=False, err=True)
        click.echo(printable(error.hint), err=True)


def print_facts(kind: str, path: str, facts: Mapping[str, str]) -> None:
    """A heading, and what is known line by line."""
    click.secho(kind, bold=True, nl=False)
    click.echo(f"  {printable(path)}")
    width = max(map(len, facts)) + 2
    for label, text in facts.items():
        click.echo(f"  {label:<{width}}{printable(text)}")


def print_written(output: str, bytes_written: int, seconds: float, *lines: str, verb: str = "Wrote") -> None:
    """What was written, and lines about it."""
    click.echo(f"{verb} {printable(output)}: {size(bytes_written)} in {seconds:.2f} s")
    for line in lines:
        click.echo(f"  {printable(line)}")


def printable(text: str) -> str:
    """Text from a file, with what could steer a terminal, or pass for a line of ours (control and format characters),
    made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
