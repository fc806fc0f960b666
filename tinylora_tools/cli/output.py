"""The one place that prints: reports in every form on stdout, warnings, errors and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import OutputError, TinyLoraError
from ..inputs import no_inputs
from ..progress import NoProgress, Progress
from ..ranks import ranks
from .screens.bar import Bar
from .screens.blocks import Block
from .screens.forms import as_csv, as_json, as_markdown
from .screens.page import Room, Rows, page
from .screens.paragraph import Span, labelled
from .screens.terminal import print_lines, say, terminal_of
from .screens.words import printable

T = TypeVar("T")

#: Columns of a picture of what goes into a pipe.
_PICTURE = 100


@dataclass(frozen=True, slots=True)
class Output:
    """How one command speaks.

    `form` is what its report is put on stdout as; `quiet` leaves out a report on the screen, and progress; `rows` says
    which rows of long tables are shown, and `save` is where a picture of it goes. Warnings are on stderr, behind the
    report, and stay.
    """

    form: str = "table"
    quiet: bool = False
    rows: Rows = "auto"
    save: Path | None = None
    force: bool = False
    _said: set[str] = field(default_factory=set)
    _bars: list[Bar] = field(default_factory=list)

    @property
    def as_json(self) -> bool:
        return self.form == "json"

    def report(self, report: T, render: Callable[[T], Iterable[Block]], rows: str | None = None) -> None:
        """Show a report, a dataclass with `warnings`: as the blocks that `render` makes of it, or in another form.

        `rows` is the key of what the report has a row each of, for CSV. Of several `ranks` the first one shows it.
        """
        if ranks().number:
            return
        if not is_dataclass(report) or isinstance(report, type):
            raise TypeError(f"{report!r} is no report")
        fields: dict[str, Any] = asdict(report)
        if self.form == "json":
            print_json(fields)
        elif self.form == "csv":
            say(as_csv(report, fields, rows).rstrip("\n"))
        elif self.form == "markdown":
            say(as_markdown(render(report)).rstrip("\n"))
        elif not self.quiet:
            print_lines(page(render(report), terminal_of(sys.stdout).room, self.rows))
        if self.save is not None:
            self._draw(self.save, render(report))
        for text in fields["warnings"]:
            if text not in self._said:
                self.warn(text)

    def _draw(self, path: Path, blocks: Iterable[Block]) -> None:
        """A picture of what a person saw, or of what a terminal would have shown."""
        from ..output.staging import staged_file
        from .screens.picture import picture

        shown = terminal_of(sys.stdout).room
        room = Room(shown.width or _PICTURE, shown.height)
        title = printable(" ".join(["tinylora", *sys.argv[1:]]))
        drawn = picture(page(blocks, room, self.rows), path.suffix, title)
        with (
            no_inputs(),
            staged_file(path, force=self.force) as partial,
        ):  # what it shows is done, whatever became of them
            partial.write_text(drawn, encoding="utf-8")

    def talk(self, text: str) -> None:
        """A line on stderr about what was done besides; none where it is to be quiet."""
        if not self.quiet and not ranks().number:
            print_lines(labelled(Span("", ""), text, terminal_of(sys.stderr).room.width, 2), err=True)

    def warn(self, text: str) -> None:
        """A warning on stderr; one that can't wait for the report isn't repeated behind it."""
        self._said.add(text)
        if ranks().number:
            return
        for bar in self._bars:
            bar.clear()
        _print_labelled(Span("warning: ", "warn"), text)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A bar on a terminal, which goes away when the work is done, however it ends; elsewhere nothing."""
        if self.quiet or ranks().number or not terminal_of(sys.stderr).cursor:
            yield NoProgress()
            return
        bar = Bar(sys.stderr)
        self._bars.append(bar)
        try:
            yield bar
        finally:
            self._bars.remove(bar)
            bar.clear()


def print_json(value: object) -> None:
    """JSON on stdout."""
    say(as_json(value))


def print_error(error: TinyLoraError, *, as_json: bool) -> None:
    """What is wrong and what to do, on stderr; for who reads JSON as an object on stdout too."""
    if as_json:
        print_json({"error": {"message": error.what, "where": error.where, "hint": error.hint}})
    _print_labelled(Span("error: ", "bad"), str(error))
    if error.hint:
        _print_labelled(Span("  next: ", "bold"), error.hint)


def check_picture(path: Path, *, force: bool, forced: bool) -> None:
    """Raise OutputError where no picture can be written, before there is long work; `forced` says that the command has
    an option to replace things."""
    from ..output.staging import check_file

    try:
        check_file(path, force=force)
    except OutputError as error:
        if forced or not path.is_file():
            raise
        raise OutputError(error.what, where=error.where, hint="Remove it, or name another file.") from None


def _print_labelled(label: Span, text: str) -> None:
    print_lines(labelled(label, text, terminal_of(sys.stderr).room.width, 2), err=True)
