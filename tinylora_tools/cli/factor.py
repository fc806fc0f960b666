"""`tinylora factor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import json_option, module_order, rank_option, target_options, targets_of
from .output import bars, new_table, plural, print_json, print_table, print_warnings, printable, size

if TYPE_CHECKING:
    from ..ops.factor import FactorReport, ModuleFactors


@click.command("factor")
@click.argument("base", metavar="BASE")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="A .safetensors file."
)
@rank_option
@target_options
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, ...")
@click.option("--threads", type=click.IntRange(min=1), help="Default: what torch chooses.")
@click.option("-f", "--force", is_flag=True, help="Replace a file that holds something else.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; warnings and errors stay.")
def command(
    base: str,
    output: Path,
    rank: int,
    release: str | None,
    module_order_file: str | None,
    device: str,
    threads: int | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Compute the leading singular triplets of BASE's weights, and store them with a certificate.

    FILE gets <module>.U, .S and .Vh in float32. What it holds already of the same weights is reused, and an interrupted
    run goes on where it stopped.

    \b
    Examples:
      tinylora factor models/Qwen2.5-0.5B -o factors.safetensors --target-modules all-linear
      tinylora factor models/Qwen2.5-0.5B -o factors.safetensors -r 8 --target-modules 'model.layers.0..*_proj'
    """
    from .process import keep_freed_memory

    keep_freed_memory()
    from ..ops.factor import FactorOptions, factor
    from ..sources.locate import locate

    options = FactorOptions(
        rank=rank,
        targets=targets_of(given),
        device=device,
        threads=threads,
        release=release,
        module_order=module_order(module_order_file),
        force=force,
    )
    if quiet or not sys.stderr.isatty():
        report = factor(locate(base), output, options)
    else:
        from .progress import byte_progress

        with byte_progress("Factoring") as progress:
            report = factor(locate(base), output, options, progress)
    print_warnings(report.warnings)
    if as_json:
        print_json(report)
    elif not quiet:
        _render(report)


def _render(report: FactorReport) -> None:
    click.echo(f"Wrote {printable(report.output)}: {size(report.bytes_written)} in {report.seconds:.2f} s")
    line = f"  {plural(len(report.modules), 'module')}, {plural(report.rank, 'triplet')} each"
    click.echo(line + (f", {report.reused} reused" if report.reused else ""))
    kinds: dict[str, list[ModuleFactors]] = {}
    for module in report.modules:
        kinds.setdefault(module.name.rpartition(".")[2], []).append(module)
    table = new_table(
        "Layers", "Count", "Shape", "s_1", "Spectrum", "Residual", "Gap", left=("Layers", "Shape", "Spectrum")
    )
    for kind, modules in kinds.items():
        first, last = (f(m.singular_values[0] for m in modules) for f in (min, max))
        shapes = dict.fromkeys(tuple(m.shape) for m in modules)
        table.add_row(
            printable(kind),
            str(len(modules)),
            " ".join(f"{out} x {into}" for out, into in list(shapes)[:2]) + (" ..." if len(shapes) > 2 else ""),
            f"{first:.3g}" if f"{first:.3g}" == f"{last:.3g}" else f"{first:.3g} to {last:.3g}",
            bars(_mean_spectrum(modules)),
            f"{max(m.residual for m in modules):.0e}",
            f"{min(m.gap for m in modules):.0e}",
        )
    print_table(table)
    click.echo("\nSpectrum: the first singular values over s_1, on average. Residual, gap: the worst, over s_1.")


def _mean_spectrum(modules: list[ModuleFactors]) -> list[float]:
    """The mean over modules of s_k / s_1, for as many k as all of them have."""
    used = [m.spectrum for m in modules if m.spectrum[0] > 0.0]
    if not used:
        return [0.0]
    return [sum(s[k] / s[0] for s in used) / len(used) for k in range(min(map(len, used)))]
