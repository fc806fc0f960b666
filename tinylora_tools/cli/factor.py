"""`tinylora factor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .config_options import target_options
from .options import SOURCE, device_option, force_option, output_option, output_options, threads_option
from .output import Output
from .screens.blocks import Block, Table, Text, columns, written
from .screens.words import bars, by_kind, extent, plural
from .shell.command import DividedCommand
from .shell.process import keep_freed_memory

if TYPE_CHECKING:
    from ..ops.factor import FactorReport, ModuleFactors


@click.command("factor", cls=DividedCommand)
@click.argument("base", type=SOURCE, metavar="BASE")
@output_option("FILE", "A .safetensors file.")
@target_options
@device_option
@threads_option
@force_option
@output_options
def command(out: Output, **given: Any) -> None:
    """Compute the leading singular triplets of BASE's weights, and store them with a certificate.

    FILE gets <module>.U, .S and .Vh in float32. What it holds already of the same weights is reused, and an interrupted
    run goes on where it stopped.

    \b
    Examples:
      tinylora factor Qwen2.5-0.5B -o f.safetensors --target-modules all-linear
      tinylora factor Qwen2.5-0.5B -o f.safetensors -r 8 --target-modules q_proj
    """
    keep_freed_memory()
    from ..ops.factor import factor

    with out.progress() as progress:
        report = factor(progress=progress, **given)
    out.report(report, _render, rows="modules")


def _render(report: FactorReport) -> Iterator[Block]:
    line = f"{plural(len(report.modules), 'module')}, {plural(report.rank, 'triplet')} each"
    line += f", {report.reused} reused" if report.reused else ""
    yield from written(report.output, report.bytes_written, report.seconds, line)
    rows = []
    for kind, modules in by_kind(report.modules).items():
        shapes = dict.fromkeys(tuple(m.shape) for m in modules)
        rows.append(
            (
                kind,
                str(len(modules)),
                " ".join(f"{out} x {into}" for out, into in list(shapes)[:2]) + (" ..." if len(shapes) > 2 else ""),
                extent((m.singular_values[0] for m in modules), "{:.3g}"),
                bars(_mean_spectrum(modules)),
                f"{max(m.residual for m in modules):.0e}",
                f"{min(m.gap for m in modules):.0e}",
            )
        )
    titles = columns(
        "Layers", "Count", "Shape", "s_1", "Spectrum", "Residual", "Gap", names=("Layers",), texts=("Shape", "Spectrum")
    )
    yield Table(titles, rows)
    yield Text("Spectrum: the first singular values over s_1, on average. Residual, gap: the worst, over s_1.")


def _mean_spectrum(modules: list[ModuleFactors]) -> list[float]:
    """The mean over modules of s_k / s_1, for as many k as all of them have."""
    used = [m.spectrum for m in modules if m.spectrum[0] > 0.0]
    if not used:
        return [0.0]
    return [sum(s[k] / s[0] for s in used) / len(used) for k in range(min(map(len, used)))]
