"""`tinylora convert lora`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..options import Dtype, several
from ..output import Output
from ..screens.blocks import Block, written
from ..screens.words import plural
from ..shell.command import Command
from ..shell.process import keep_freed_memory
from .sources import sum_options

if TYPE_CHECKING:
    from ...adapters.source import Source
    from ...ops.convert.lora import LoraReport


@click.command("lora", cls=Command)
@sum_options(
    "OUT",
    "Directory to make.",
    click.option("--dtype", type=Dtype(), default="float32", show_default=True, help="Of the factors."),
    click.option("--rank-pattern", is_flag=True, help="Let ranks differ, instead of padding with zeros."),
    click.option(
        "--for",
        "server",
        type=click.Choice(["peft", "vllm", "sglang", "llama.cpp", "mlx"]),
        default="peft",
        show_default=True,
        help="Who is going to read it; what it would refuse, lose or misread is refused. mlx has files of its own.",
    ),
)
def command(
    adapters: tuple[str, ...], find: Callable[[str], Source], scales: tuple[float, ...], out: Output, **given: Any
) -> None:
    """Make a LoRA adapter with the same update, exactly, for PEFT, vLLM, SGLang, llama.cpp's converter or mlx-lm.

    Several adapters become one whose rank is the sum of theirs. ADAPTER is PEFT's, a packed one (whose base has to be
    at hand), or one of six other projects.

    \b
    Examples:
      tinylora convert lora adapter -o lora
      tinylora convert lora adapter -o lora --for vllm --dtype bf16
      tinylora convert lora first second -o lora --scale 1 --scale 0.5
    """
    scale = several(scales, adapters)
    keep_freed_memory()
    from ...ops.convert.lora import to_lora

    with out.progress() as progress:
        report = to_lora([find(adapter) for adapter in adapters], scale=scale, progress=progress, **given)
    out.report(report, _render)


def _render(report: LoraReport) -> Iterator[Block]:
    ranks = f"rank {report.rank}" if not report.ranks else f"ranks up to {report.rank}"
    line = f"{plural(report.modules, 'module')}, {ranks}, {report.dtype}"
    serve = [f"{'load' if report.server == 'peft' else 'serve'} it: {command}" for command in report.serve]
    yield from written(report.output, report.bytes_written, report.seconds, line, *serve)
