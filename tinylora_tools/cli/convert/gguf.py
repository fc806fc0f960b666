"""`tinylora convert gguf`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..options import several
from ..output import Output
from ..screens.blocks import Block, written
from ..screens.words import plural
from ..shell.command import Command
from ..shell.process import keep_freed_memory
from .sources import sum_options

if TYPE_CHECKING:
    from ...adapters.source import Source
    from ...ops.convert.gguf import GgufReport


@click.command("gguf", cls=Command)
@sum_options(
    "FILE.gguf",
    "File to make.",
    click.option(
        "--outtype",
        type=click.Choice(["auto", "f32", "f16", "bf16"]),
        default="f32",
        show_default=True,
        help="Type of the factors; auto is what config.json says of the base's weights.",
    ),
)
def command(
    adapters: tuple[str, ...], find: Callable[[str], Source], scales: tuple[float, ...], out: Output, **given: Any
) -> None:
    """Make a LoRA adapter as a GGUF file, with the same update, which llama.cpp and Ollama load.

    Of the base it needs config.json alone, and nothing of llama.cpp. Several adapters become one whose rank is the sum
    of theirs.

    \b
    Examples:
      tinylora convert gguf adapter -o adapter.gguf
      tinylora convert gguf adapter -o adapter.gguf --outtype bf16
    """
    scale = several(scales, adapters)
    keep_freed_memory()
    from ...ops.convert.gguf import to_gguf

    with out.progress() as progress:
        report = to_gguf([find(adapter) for adapter in adapters], scale=scale, progress=progress, **given)
    out.report(report, _render)


def _render(report: GgufReport) -> Iterator[Block]:
    line = f"{report.architecture}: {plural(report.modules, 'module')}, rank {report.rank}, {report.outtype}"
    serve = [f"serve it: {command}" for command in report.serve]
    yield from written(report.output, report.bytes_written, report.seconds, line, *serve)
