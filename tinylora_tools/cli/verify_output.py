"""`tinylora verify-output`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, THREADS, architecture_option, base_option, cache_option, output_options
from .output import Output
from .screens.blocks import Block, Items, Text
from .screens.words import plural
from .shell.command import Command
from .shell.process import keep_freed_memory, leave_threads_to_us

if TYPE_CHECKING:
    from ..ops.merge.verify_output import OutputReport


@click.command("verify-output", cls=Command)
@click.argument("output", type=SOURCE, metavar="DIR")
@click.argument("adapters", nargs=-1, type=SOURCE, metavar="[ADAPTER...]")
@base_option
@architecture_option
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Form only N tensors again. Default: all.")
@click.option("--threads", type=THREADS, help="Default: 2.")
@cache_option
@output_options
def command(out: Output, adapters: tuple[str, ...], **given: Any) -> int:
    """Verify a merged model by the manifest in it (merge --manifest). Exits with 0 when all is as it was recorded.

    DIR's files are checked by their sha256, and what differs is named, down to the tensor. With --base, the base's too;
    with ADAPTER, the adapters', and the merged tensors are formed again from both, bit for bit.

    \b
    Examples:
      tinylora verify-output merged
      tinylora verify-output merged adapter --base Qwen2.5-0.5B --sample 20
    """
    leave_threads_to_us()
    keep_freed_memory()
    from ..ops.merge.verify_output import verify_output

    with out.progress() as progress:
        report = verify_output(adapters=adapters or None, progress=progress, **given)
    out.report(report, _render, rows="differences")
    return 0 if report.ok else 1


def _render(report: OutputReport) -> Iterator[Block]:
    looked_at = [name for name, seen in (("base", report.base), ("adapters", report.adapters)) if seen]
    yield Text(f"{report.output}: {plural(report.files, 'file')}, {plural(report.tensors, 'tensor')}")
    yield Text(f"{' and '.join(looked_at) or 'neither base nor adapters'} looked at", indent=2)
    yield Text(f"{plural(report.recomputed, 'tensor')} formed again", indent=2)
    if report.differences:
        yield Items([f"{one.part}: {one.name}: {one.what}" for one in report.differences], of="difference")
    text = "All is as it was recorded." if report.ok else f"{plural(len(report.differences), 'difference')}."
    yield Text(text, "good" if report.ok else "bad")
