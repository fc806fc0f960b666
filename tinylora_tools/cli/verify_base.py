"""`tinylora verify-base`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, architecture_option, base_option, device_option, output_options, threads_option
from .output import Output, new_table, plural, print_table, printable
from .process import keep_freed_memory

if TYPE_CHECKING:
    from ..ops.verify.base import BaseReport

_BY = {"manifest": "the manifest", "hub": "the Hub's digest of", "packed": "the packed adapter"}

#: How many of differences, and of names of what wasn't compared, are shown.
_SHOWN = 20
_NAMED = 3

_SAID = {
    "same-weights": "The targeted weights fit the adapter's factors",
    "other-dtype": "The targeted weights fit the adapter's factors, in another dtype",
    "fine-tuned": "The factors are of a relative of this base: its weights have moved since",
    "other-model": "The factors are of another model",
    "unknown": "Nothing tells whether all targeted weights fit the adapter's factors",
}


@click.command("verify-base")
@click.argument("adapter", type=SOURCE, metavar="ADAPTER")
@base_option
@click.option(
    "--all",
    "all_tensors",
    is_flag=True,
    help="Compare every tensor, bit for bit, with what is recorded of it: by a manifest, the Hub, or a packed ADAPTER.",
)
@click.option(
    "--against",
    type=SOURCE,
    metavar="MERGED",
    help="A model that was merged into the base with --manifest, or its manifest: implies --all.",
)
@architecture_option
@device_option
@threads_option
@output_options
def command(out: Output, **given: Any) -> int:
    """Verify that ADAPTER's factors belong to a base. Exits with 0 when they do, 1 when not.

    Tells apart the same weights, the same in another dtype (both 0), a fine-tuned relative's and another model's (both
    1). These are the targeted weights; others aren't looked at, but with --all: then it exits with 0 when each of them,
    too, is recorded somewhere and as it was recorded.

    \b
    Examples:
      tinylora verify-base adapter --base models/Qwen2.5-0.5B
      tinylora verify-base adapter --base hf://Qwen/Qwen2.5-0.5B --all
      tinylora verify-base adapter --base models/Qwen2.5-0.5B --against merged --json
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
    if report.all_tensors:
        _render_records(report)
    said = f"{_SAID[report.verdict]}; {_of_the_others(report)}."
    click.secho(said, bold=True, fg="green" if report.ok else "red")


def _render_records(report: BaseReport) -> None:
    for record in report.records:
        click.echo(f"  {plural(record.tensors, 'tensor')} compared by {_BY[record.kind]} {printable(record.path)}")
    for one in report.differences[:_SHOWN]:
        click.echo(f"  {printable(one.name)}: {printable(one.what)}")
    if len(report.differences) > _SHOWN:
        click.echo(f"  and {len(report.differences) - _SHOWN} more; --json has all")
    if report.not_compared:
        names = ", ".join(map(printable, report.not_compared[:_NAMED]))
        more = f" and {len(report.not_compared) - _NAMED:,} more" if len(report.not_compared) > _NAMED else ""
        click.echo(f"  not compared: {names}{more}")


def _of_the_others(report: BaseReport) -> str:
    """What is known of all tensors, or of how many nothing."""
    left = len(report.not_compared)
    if not report.all_tensors:
        return f"{_tensors(left)} looked at" if left else "there are no others"
    differ = f"{plural(len(report.differences), 'difference')} from what was recorded"
    unknown = f"{_tensors(left)} compared, for nothing records {'it' if left == 1 else 'them'}"
    if report.differences:
        return f"{differ}, and {unknown}" if left else differ
    return unknown if left else f"all {plural(report.tensors, 'tensor')} are as recorded"


def _tensors(count: int) -> str:
    return f"{plural(count, 'tensor')} {'was' if count == 1 else 'were'}n't"
