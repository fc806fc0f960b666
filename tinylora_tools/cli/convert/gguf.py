"""`tinylora convert gguf`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..options import (
    SOURCE,
    base_option,
    device_option,
    force_option,
    output_option,
    output_options,
    release_option,
    scale_option,
    several,
    stream_option,
    threads_option,
)
from ..output import Output
from ..process import keep_freed_memory
from ..screens.blocks import Block, written
from ..screens.words import plural
from ..shell.command import Command
from .sources import source_options

if TYPE_CHECKING:
    from ...adapters.source import Source
    from ...ops.convert.gguf import GgufReport


@click.command("gguf", cls=Command)
@click.argument("adapters", nargs=-1, required=True, type=SOURCE, metavar="ADAPTER...")
@output_option("FILE.gguf", "File to make.")
@base_option
@source_options
@release_option
@scale_option
@click.option(
    "--outtype",
    type=click.Choice(["auto", "f32", "f16", "bf16"]),
    default="f32",
    show_default=True,
    help="Type of the factors; auto is what config.json says of the base's weights.",
)
@stream_option
@device_option
@threads_option
@force_option
@output_options
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
