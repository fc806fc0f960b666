"""`tinylora verify-base`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from .options import base_option, json_option, located
from .output import new_table, plural, print_json, print_table, printable

if TYPE_CHECKING:
    from ..ops.verify.base import BaseReport

_SAID = {
    "same-base": "The factors are this base's.",
    "other-dtype": "The factors are of the same model in another dtype.",
    "fine-tuned": "The factors are of a relative of this base: its weights have moved since.",
    "other-model": "The factors are of another model.",
    "unknown": "The adapter has no factors to check.",
}


@click.command("verify-base")
@click.argument("adapter", metavar="ADAPTER")
@base_option
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, ...")
@json_option
def command(adapter: str, base: str | None, device: str, as_json: bool) -> int:
    """Verify that ADAPTER's factors belong to a base. Exits with 0 when they do, 1 when not.

    Tells apart the same base, the same model in another dtype (both 0), a fine-tuned relative and another model
    (both 1).

    \b
    Examples:
      tinylora verify-base adapter --base models/Qwen2.5-0.5B
      tinylora verify-base adapter --base models/Qwen2.5-0.5B --json
    """
    from .process import keep_freed_memory

    keep_freed_memory()
    from ..ops.verify.base import verify_base
    from ..sources.locate import locate
    from .adapter_source import as_adapter

    source = locate(adapter)
    with as_adapter(source, located(base)) as path:
        if not sys.stderr.isatty():
            report = verify_base(path, located(base), device=device)
        else:
            from .progress import byte_progress

            with byte_progress("Verifying") as progress:
                report = verify_base(path, located(base), device=device, progress=progress)
    report = replace(report, adapter=str(source))
    if as_json:
        print_json(report)
    else:
        _render(report)
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
