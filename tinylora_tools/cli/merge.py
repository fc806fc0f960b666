"""`tinylora merge`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .options import (
    SOURCE,
    THREADS,
    Dtype,
    all_of,
    base_option_with,
    cache_option,
    force_option,
    numbering_options,
    output_option,
    output_options,
    release_option,
    scale_option,
    several,
    stream_option,
)
from .output import Output
from .screens.blocks import Block, Text, written
from .screens.heat import heat_map
from .screens.words import plural, scientific
from .shell.command import DividedCommand
from .shell.process import keep_freed_memory, leave_threads_to_us
from .shell.pushing import push_option

if TYPE_CHECKING:
    from ..ops.merge.report import MergeReport

_own_options = all_of(
    click.option(
        "--dtype",
        type=Dtype("auto"),
        default="auto",
        show_default=True,
        help="Of all floating-point tensors; auto keeps each one's own.",
    ),
    click.option(
        "--tied",
        type=click.Choice(["untie", "share"]),
        default="untie",
        show_default=True,
        help="Where the adapter targets one of two tied embeddings: its forward pass changes that one only, so the "
        "merge unties them. share changes both, as PEFT's merge does, and keeps the file's layout.",
    ),
    click.option(
        "--tokenizer",
        type=click.Choice(["base", "adapter"]),
        help="Whose tokenizer and chat template come along. Default: the base's, with a warning where the adapter's "
        "differ.",
    ),
    click.option("--device", default="cpu", show_default=True, help="Where sums are formed: cpu, cuda, mps, xpu, ..."),
    click.option("--threads", type=THREADS, help="Default: one a core, at most 8."),
    cache_option,
    click.option(
        "--verify-base/--no-verify-base", default=True, help="Compare the targeted weights with the adapter's factors."
    ),
)


@click.command("merge", cls=DividedCommand)
@click.argument("adapters", nargs=-1, required=True, type=SOURCE, metavar="ADAPTER...")
@output_option("OUT", "Directory to make.")
@base_option_with("from the Hub if need be")
@scale_option
@_own_options
@stream_option
@numbering_options
@release_option
@click.option("--manifest", is_flag=True, help="Record the sha256 of all that is read and written, for verify-output.")
@click.option(
    "--stream-base",
    is_flag=True,
    help="Read a base on the Hub by ranges as the merge needs them, instead of downloading it first: only OUT takes "
    "space. After an interruption the same command goes on behind the last whole shard.",
)
@click.option(
    "--inplace-copy",
    type=click.Choice(["auto", "reflink"]),
    default="auto",
    show_default=True,
    help="reflink has OUT share what doesn't change with the base's files, so that it takes no space: on XFS and "
    "Btrfs, refused elsewhere. auto does so where it can, once there is room for a copy.",
)
@click.option("--dry-run", is_flag=True, help="Plan and check all but the values of weights, write nothing.")
@force_option
@output_options
@push_option
def command(adapters: tuple[str, ...], scales: tuple[float, ...], out: Output, **given: Any) -> None:
    """Merge TinyLoRA adapters into their base checkpoint.

    OUT becomes a checkpoint like the base, with each targeted weight W replaced by W + B R A. What the adapters don't
    touch is copied byte for byte. Memory stays below 200 MB whatever the model's size (a packed adapter's targeted
    weights are kept, if they fit), and the bytes are the same for every number of threads, CPU and device.

    \b
    Examples:
      tinylora merge adapter -o merged
      tinylora merge adapter --base Qwen2.5-0.5B -o merged --dtype float32
      tinylora merge first second --scale 1 --scale 0.5 -o merged
    """
    scale = several(scales, adapters)
    leave_threads_to_us()
    from ..adapters.source import PEFT, find_source
    from ..ops.merge.run import merge

    sources = [find_source(adapter) for adapter in adapters]
    if any(source.form != PEFT for source in sources):
        keep_freed_memory()  # for the factors; sums have buffers of their own
    with out.progress() as progress:
        report = merge(sources, scale=scale, progress=progress, **given)
    maps = out.rows != "auto" or out.save is not None
    out.report(report, lambda report: _render(report, maps), rows="modules")


def _render(report: MergeReport, maps: bool) -> Iterator[Block]:
    replaced = f"{plural(report.tensors_replaced, 'tensor')} replaced, " if report.tensors_replaced else ""
    dequantized = f"{report.tensors_dequantized} more dequantized, " if report.tensors_dequantized else ""
    copied = f"{plural(report.tensors_copied, 'tensor')} copied unchanged"
    lines = [f"{plural(report.modules_merged, 'module')} merged, {dequantized}{replaced}{copied}"]
    if report.dry_run:
        lines.append("base not looked at: a dry run reads no weights")
    if report.tied != "kept":
        lines.append(f"tied embeddings {report.tied}")
    if report.head is not None:
        head = report.head
        lines.append(f"head {', '.join(head.modules)} with {plural(head.labels, 'label')}: {head.class_name}")
    if report.delta_error is not None:
        lines.append(f"rounding changed the update by {report.delta_error:.2%} of its norm")
        worst = max(report.modules, key=lambda module: module.delta_error)
        if len(report.modules) > 1:
            lines.append(f"most in {worst.name}: {worst.delta_error:.2%}")
    rhos = [module.rho for module in report.modules if module.rho is not None]
    if rhos:
        unseen = report.tensors_copied + report.tensors_dequantized + len(report.modules) - len(rhos)
        fit = f"fit the adapter's factors to a residual of {max(rhos):.1e}"
        lines.append(f"{plural(len(rhos), 'targeted weight')} {fit}; {unseen:,} not looked at")
    elif not report.dry_run:
        lines.append("base not looked at: no weight was compared with factors")
    verb = "Would write" if report.dry_run else "Wrote"
    yield from written(report.output, report.bytes_written, report.seconds, *lines, verb=verb)
    if maps and report.modules:
        shares = {module.name: module.delta_norm / (module.weight_norm or 1.0) for module in report.modules}
        yield Text("Of the weight's norm, the update has:")
        yield heat_map(shares, scientific)
        yield Text("Of the update's norm, rounding changed:")
        yield heat_map({module.name: module.delta_error for module in report.modules}, "{:.2%}".format)
