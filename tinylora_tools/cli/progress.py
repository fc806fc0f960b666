"""A progress bar with bytes and rate, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from .output import printable


class _ByteProgress:
    """An `ops.progress.Progress` that moves one bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def start(self, total: int) -> None:
        self._bar.update(self._task, total=total)

    def advance(self, done: int) -> None:
        self._bar.advance(self._task, done)

    def at(self, what: str) -> None:
        self._bar.update(self._task, item=printable(what))


@contextmanager
def byte_progress(description: str) -> Iterator[_ByteProgress]:
    """A bar that goes away when the work is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[item]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _ByteProgress(bar, bar.add_task(description, total=None, item=""))
