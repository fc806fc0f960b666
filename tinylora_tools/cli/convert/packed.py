"""`tinylora convert packed`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..options import (
    SOURCE,
    Dtype,
    cache_option,
    device_option,
    force_option,
    output_option,
    output_options,
    stream_option,
    threads_option,
)
from ..output import Output
from ..screens.blocks import Block, written
from ..screens.words import plural, size
from ..shell.command import DividedCommand
from ..shell.process import keep_freed_memory
from ..shell.pushing import push_option
from .sources import source_options

if TYPE_CHECKING:
    from ...adapters.source import Source
    from ...ops.convert.packed import PackReport


@click.command("packed", cls=DividedCommand)
@click.argument("adapter", type=SOURCE, metavar="ADAPTER")
@output_option("OUT", "The .safetensors file to make.")
@click.option(
    "--base", required=True, type=SOURCE, metavar="DIR", help="The base model: a directory or hf://owner/name."
)
@source_options
@click.option("--exact", is_flag=True, help="Correct every entry, so that the very adapter comes back.")
@click.option(
    "--v-dtype",
    type=Dtype("auto"),
    default="auto",
    show_default=True,
    help="Of v; auto is bfloat16 where nothing is lost.",
)
@stream_option
@device_option
@threads_option
@cache_option
@force_option
@output_options
@push_option
def command(adapter: str, find: Callable[[str], Source], out: Output, **given: Any) -> None:
    """Pack an adapter into v and what it takes to make the rest again from the base: less than a kilobyte.

    The way back is proven before anything is written. Every other command reads such a file.

    \b
    Examples:
      tinylora convert packed adapter -o packed.safetensors --base Qwen2.5-0.5B
      tinylora convert packed first -o x.safetensors --base Qwen2.5-0.5B --exact
    """
    keep_freed_memory()
    from ...ops.convert.packed import pack

    with out.progress() as progress:
        report = pack(find(adapter), tell=out.warn, progress=progress, **given)
    out.report(report, _render)


def _render(report: PackReport) -> Iterator[Block]:
    line = f"{size(report.payload_bytes)} of v, {plural(report.corrections, 'correction')}"
    line += f", {size(report.other_bytes)} of other tensors" if report.other_bytes else ""
    exactly = "restores bit for bit" if report.identical else f"restores updates within {report.error:.1e}"
    yield from written(report.output, report.bytes_written, report.seconds, f"{line}; {exactly}")
