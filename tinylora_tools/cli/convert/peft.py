"""`tinylora convert peft`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..options import (
    SOURCE,
    Dtype,
    base_option,
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
from ..screens.words import plural
from ..shell.command import Command
from ..shell.process import keep_freed_memory
from ..shell.pushing import push_option
from .sources import source_options

if TYPE_CHECKING:
    from ...adapters.source import Source
    from ...ops.convert.peft import PeftReport


@click.command("peft", cls=Command)
@click.argument("adapter", type=SOURCE, metavar="ADAPTER")
@output_option("OUT", "Directory to make.")
@base_option
@source_options
@click.option(
    "--save-projection/--no-save-projection",
    default=None,
    help="Put P into the file, or leave it out where its seed draws it again. Default: as it is.",
)
@click.option("--adapter-dtype", type=Dtype(), help="Of A, B and P; refused where it would round. Default: as it is.")
@click.option(
    "--complete",
    is_flag=True,
    help="Compute modules that the file lacks, though its configuration targets them, from the base and the seed.",
)
@click.option(
    "--digests/--no-digests",
    default=True,
    help="Record each tensor's sha256 in the file, some 130 bytes a tensor, so that a flipped bit is found.",
)
@stream_option
@device_option
@threads_option
@cache_option
@force_option
@output_options
@push_option
def command(adapter: str, find: Callable[[str], Source], out: Output, **given: Any) -> None:
    """Write an adapter of any form in PEFT's files, anew.

    .bin becomes safetensors, without what PEFT 0.19 saved of other adapters, with P or without, in bfloat16 where
    nothing is lost by it. Packed adapters are restored, and those of six other projects converted; what their files
    don't say is asked for.

    \b
    Examples:
      tinylora convert peft old-adapter -o adapter --save-projection
      tinylora convert peft packed.safetensors -o adapter --base Qwen2.5-0.5B
    """
    keep_freed_memory()
    from ...ops.convert.peft import to_peft

    with out.progress() as progress:
        report = to_peft(find(adapter), progress=progress, **given)
    out.report(report, _render)


def _render(report: PeftReport) -> Iterator[Block]:
    line = f"{plural(report.modules, 'module')}, {'with' if report.projection else 'without'} P"
    line += f", {plural(report.left_out, 'tensor')} of other adapters left out" if report.left_out else ""
    yield from written(report.output, report.bytes_written, report.seconds, line)
