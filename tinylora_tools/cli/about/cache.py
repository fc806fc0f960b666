"""`tinylora cache`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ..options import output_options
from ..output import Output
from ..screens.blocks import Block, Text
from ..screens.words import plural, size
from ..shell.command import Command

if TYPE_CHECKING:
    from ...ops.cache import CacheReport


@click.command("cache", cls=Command)
@click.option("--clear", is_flag=True, help="Remove all that is kept.")
@output_options
def command(out: Output, clear: bool) -> None:
    """Show what is kept of packed adapters' factors, or remove it.

    Factors of a base's weights are computed once, and kept in the user's cache directory for the next packed adapter of
    that base; they are checked when they are used. TINYLORA_CACHE_DIR names another directory, or, empty, none.

    \b
    Examples:
      tinylora cache
      tinylora cache --clear
    """
    from ...ops.cache import cache

    out.report(cache(clear=clear), _render)


def _render(report: CacheReport) -> Iterator[Block]:
    if report.directory is None:
        yield Text("Nothing is kept: there is no directory for it")
        return
    what = f"{plural(report.sets, 'set')} of factors, {size(report.bytes)} of at most {size(report.limit)}"
    yield Text(f"Removed {what}" if report.cleared else what)
    yield Text(report.directory, indent=2)
