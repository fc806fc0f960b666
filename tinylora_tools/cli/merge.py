"""`tinylora merge`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import FINITE, base_option, json_option, located, module_order, module_order_option, release_option
from .output import plural, print_json, print_warnings, printable, size

if TYPE_CHECKING:
    from ..ops.merge.run import MergeReport


@click.command("merge")
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT", help="Directory to make."
)
@base_option
@click.option(
    "--scale",
    "scales",
    multiple=True,
    type=FINITE,
    metavar="X",
    help="Factor of an adapter's update: once for all adapters, or once for each.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of all floating-point tensors; auto keeps each one's own.",
)
@click.option(
    "--tied",
    type=click.Choice(["untie", "share"]),
    default="untie",
    show_default=True,
    help="Where the adapter targets one of two tied embeddings: its forward pass changes that one only, so the merge "
    "unties them. share changes both, as PEFT's merge does, and keeps the file's layout.",
)
@click.option("--device", default="cpu", show_default=True, help="Where sums are formed: cpu, cuda, mps, xpu, ...")
@click.option("--threads", type=click.IntRange(min=1), help="Default: one a core, at most 8.")
@click.option("--verify-base/--no-verify-base", default=True, help="Check that the adapter's factors are the base's.")
@module_order_option
@release_option
@click.option("--dry-run", is_flag=True, help="Plan and check all but the values of weights, write nothing.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing model directory.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; warnings and errors stay.")
def command(
    adapters: tuple[str, ...],
    output: Path,
    base: str | None,
    scales: tuple[float, ...],
    dtype: str,
    tied: str,
    device: str,
    threads: int | None,
    verify_base: bool,
    module_order_file: str | None,
    release: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge TinyLoRA adapters into their base checkpoint.

    OUT becomes a checkpoint like the base, with each targeted weight W replaced by W + B R A. What the adapters don't
    touch is copied byte for byte. Memory stays below 200 MB whatever the model's size, and the bytes are the same for
    every number of threads, CPU and device.

    \b
    Examples:
      tinylora merge adapter -o merged
      tinylora merge adapter --base models/Qwen2.5-0.5B -o merged --dtype float32
      tinylora merge first second --scale 1 --scale 0.5 -o merged
    """
    # The sums run on threads of their own; the BLAS library's would only get in their way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("VECLIB_MAXIMUM_THREADS", "1")
    if len(scales) not in (0, 1, len(adapters)):
        raise click.UsageError(f"--scale is given {len(scales)} times for {len(adapters)} adapters: once, or for each.")
    from ..ops.merge.run import MergeOptions, merge

    options = MergeOptions(
        scales=(scales or (1.0,)) * len(adapters) if len(scales) < 2 else scales,
        dtype=dtype,
        tied=tied,
        device=device,
        threads=threads,
        verify_base=verify_base,
        force=force,
        dry_run=dry_run,
        module_order=module_order(module_order_file),
        release=release,
    )
    from ..sources.locate import locate
    from .adapter_source import as_adapter

    with ExitStack() as stack:
        sources = [locate(adapter) for adapter in adapters]
        paths = [
            stack.enter_context(as_adapter(source, located(base), output=output, quiet=quiet)) for source in sources
        ]
        if quiet or not sys.stderr.isatty():
            report = merge(paths, output, located(base), options)
        else:
            from .progress import byte_progress

            with byte_progress("Merging") as progress:
                report = merge(paths, output, located(base), options, progress)
    report = replace(report, adapters=[str(source) for source in sources])
    print_warnings(report.warnings)
    if as_json:
        print_json(report)
    elif not quiet:
        _render(report)


def _render(report: MergeReport) -> None:
    verb = "Would write" if report.dry_run else "Wrote"
    click.echo(f"{verb} {printable(report.output)}: {size(report.bytes_written)} in {report.seconds:.2f} s")
    line = f"  {plural(report.modules_merged, 'module')} merged, "
    if report.tensors_replaced:
        line += f"{plural(report.tensors_replaced, 'tensor')} replaced, "
    click.echo(line + f"{plural(report.tensors_copied, 'tensor')} copied unchanged")
    if report.dry_run:
        click.echo("  base not verified: a dry run reads no weights")
    if report.tied != "kept":
        click.echo(f"  tied embeddings {report.tied}")
    if report.delta_error is not None:
        click.echo(f"  rounding changed the update by {report.delta_error:.2%} of its norm")
        worst = max(report.modules, key=lambda module: module.delta_error)
        if len(report.modules) > 1:
            click.echo(f"  most in {printable(worst.name)}: {worst.delta_error:.2%}")
    rhos = [module.rho for module in report.modules if module.rho is not None]
    if rhos:
        click.echo(f"  base verified: largest residual {max(rhos):.1e}")
