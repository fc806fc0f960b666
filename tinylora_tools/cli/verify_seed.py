"""`tinylora verify-seed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, base_option, force_option, numbering_options, output_options
from .output import Output, new_table, print_table, printable
from .process import keep_freed_memory

if TYPE_CHECKING:
    from ..ops.verify.seed import VerifyReport


@click.command("verify-seed")
@click.argument("adapter", required=False, type=SOURCE, metavar="[ADAPTER]")
@base_option
@numbering_options
@click.option(
    "--against",
    type=SOURCE,
    metavar="SOURCE",
    help="A merged checkpoint, or an adapter with P, to recover the lost seed of a PEFT 0.19 adapter from.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-5,
    show_default=True,
    help="Where P isn't stored: how much an update may depend on the machine, relative to its norm.",
)
@click.option(
    "--device",
    type=click.Choice(["all", "cpu", "cuda", "mps", "xpu"]),
    default="all",
    show_default=True,
    help="Which of this machine's devices to verify.",
)
@click.option("--record", "record_to", type=click.Path(path_type=Path), metavar="FILE", help="Write a golden file.")
@click.option("--golden", type=SOURCE, metavar="FILE", help="Check against a golden file.")
@force_option
@output_options
def command(out: Output, **given: Any) -> int:
    """Verify that projections reproduce. Exits with 0 when all agree, 1 when not.

    Without ADAPTER: draws P in every way that this machine has (NumPy, and torch at each CPU capability and number of
    threads) and compares with built-in golden vectors. With ADAPTER: says which seeds and which arithmetic drew its
    P, and which modules differ; or, where P isn't stored, how much it depends on the machine.

    \b
    Examples:
      tinylora verify-seed
      tinylora verify-seed adapter
      tinylora verify-seed --record golden.json
      tinylora verify-seed --golden golden.json
      tinylora verify-seed old-adapter --against merged --base models/Qwen2.5-0.5B
    """
    keep_freed_memory()
    from ..ops.verify.seed import verify_seed

    with out.progress() as progress:
        report = verify_seed(progress=progress, **given)
    out.report(report, _render)
    return 0 if report.ok else 1


def _render(report: VerifyReport) -> None:
    found = report.adapter
    if found is not None:
        seed = f"{found.seed}" + (f" + {found.offset}" if found.offset is not None else "")
        click.echo(f"Seeds of P: {found.regime}, seed {seed}")
        if found.stream:
            click.echo(f"Drawn by {found.stream}, rounded to {found.dtype}")
        click.echo(f"{found.matched} of {found.modules} modules as expected")
        if found.delta_difference is not None:
            click.echo(
                f"{len(found.machine_dependent)} modules depend on the machine, "
                f"their updates by at most {found.delta_difference:.1e} of their norm"
            )
    table = new_table("Check", "Stream", "Result", "ulp", "abs", "Note", left=("Check", "Stream", "Result", "Note"))
    for check in report.checks:
        if check.identical is None:
            result = "ok" if check.ok else "FAILED"
        else:
            result = "identical" if check.identical else "differs" if check.ok else "DIFFERS"
        table.add_row(
            printable(check.name),
            check.stream or "",
            result,
            "" if check.max_ulp is None else str(check.max_ulp),
            "" if check.max_abs is None else f"{check.max_abs:.1e}",
            printable(check.note),
        )
    print_table(table)
    for name in report.skipped:
        click.echo(f"skipped {name}")
    click.secho("All agree." if report.ok else "Not all agree.", bold=True, fg="green" if report.ok else "red")
