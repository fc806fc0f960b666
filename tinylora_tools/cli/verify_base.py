"""`tinylora verify-base`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, architecture_option, base_option, device_option, output_options, threads_option
from .output import Output, new_table, plural, print_table, printable
from .process import keep_freed_memory

if TYPE_CHECKING:
    from ..ops.verify.base import BaseReport

_SAID = {
    "same-base": "The factors are this base's.",
    "other-dtype": "The factors are of the same model in another dtype.",
    "fine-tuned": "The factors are of a relative of this base: its weights have moved since.",
    "other-model": "The factors are of another model.",
    "unknown": "Nothing tells whether all factors are this base's.",
}


@click.command("verify-base")
@click.argument("adapter", type=SOURCE, metavar="ADAPTER")
@base_option
@architecture_option
@device_option
@threads_option
@output_options
def command(out: Output, **given: Any) -> int:
    """Verify that ADAPTER's factors belong to a base. Exits with 0 when they do, 1 when not.

    Tells apart the same base, the same model in another dtype (both 0), a fine-tuned relative and another model
    (both 1).

    \b
    Examples:
      tinylora verify-base adapter --base models/Qwen2.5-0.5B
      tinylora verify-base adapter --base models/Qwen2.5-0.5B --json
    """
    keep_freed_memory()
    from ..ops.verify.base import verify_base

    with out.progress() as progress:
        report = verify_base(progress=progress, **given)
    out.report(report, _render)
    return 0 if report.ok else 1


def _render(report: BaseReport) -> None:
    from ..ops.verify.base import by_verdict

    click.echo(f"{printable(report.adapter)} against {printable(report.base)}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in by_verdict(report).items())
    click.echo(f"  {plural(len(report.modules), 'module')}: {counts or 'none'}; {report.recomputed} factored anew")
    table = new_table(
        "Module", "Verdict", "Residual", "Agreement", "Difference", "Gap", "Note", left=("Module", "Verdict", "Note")
    )
    shown = sorted(report.modules, key=lambda m: (m.verdict == report.verdict, m.rho or 0.0), reverse=True)[:10]
    for m in shown:
        figures = (m.rho, None, m.difference, m.gap)
        texts = ["" if x is None else f"{x:.1e}" for x in figures]
        texts[1] = "" if m.agreement is None else f"{m.agreement:.2%}"
        table.add_row(printable(m.name), m.verdict, *texts, printable(m.note))
    print_table(table)
    if len(report.modules) > len(shown):
        click.echo(f"  and {len(report.modules) - len(shown)} more; --json has all")
    click.secho(_SAID[report.verdict], bold=True, fg="green" if report.ok else "red")
