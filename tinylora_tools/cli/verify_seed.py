"""`tinylora verify-seed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import OUTPUT, SOURCE, base_option, cache_option, force_option, numbering_options, output_options
from .output import Output
from .screens.blocks import Block, Table, Text, columns
from .screens.words import scientific
from .shell.command import Command
from .shell.process import keep_freed_memory

if TYPE_CHECKING:
    from ..ops.verify.adapter import AdapterVerdict
    from ..ops.verify.check import Check
    from ..ops.verify.seed import VerifyReport


@click.command("verify-seed", cls=Command)
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
@click.option("--record", "record_to", type=OUTPUT, metavar="FILE", help="Write a golden file.")
@click.option("--golden", type=SOURCE, metavar="FILE", help="Check against a golden file.")
@cache_option
@force_option
@output_options
def command(out: Output, **given: Any) -> int:
    """Verify that projections reproduce. Exits with 0 when all agree, 1 when not.

    Without ADAPTER: draws P in every way that this machine has (NumPy, and torch at each CPU capability and number of
    threads) and compares with built-in golden vectors. With ADAPTER: says which seeds and which arithmetic drew its
    P, and which modules differ; or, where P isn't stored, how much it depends on the machine.

    \b
    Examples:
      tinylora verify-seed adapter
      tinylora verify-seed --record golden.json
      tinylora verify-seed --golden golden.json
      tinylora verify-seed old-adapter --against merged --base Qwen2.5-0.5B
    """
    keep_freed_memory()
    from ..ops.verify.seed import verify_seed

    with out.progress() as progress:
        report = verify_seed(progress=progress, **given)
    out.report(report, _render, rows="checks")
    return 0 if report.ok else 1


def _render(report: VerifyReport) -> Iterator[Block]:
    if report.adapter is not None:
        yield from _drawn(report.adapter)
    rows = [
        (
            check.name,
            check.stream or "",
            _result(check),
            "" if check.max_ulp is None else str(check.max_ulp),
            scientific(check.max_abs),
        )
        for check in report.checks
    ]
    titles = columns("Check", "Stream", "Result", "ulp", "abs", names=("Check",), texts=("Stream", "Result"))
    notes = [(_called(check, report.checks), check.note) for check in report.checks if check.note]
    yield Table(titles, rows, notes=notes, of="check")
    yield Text("`tinylora help stream`, or ulp, tells what a column is.", "faint")
    if report.skipped:
        yield Text(f"Skipped: {'; '.join(report.skipped)}.")
    yield Text("All agree." if report.ok else "Not all agree.", "good" if report.ok else "bad")
    yield from (Text(f"next: {hint}", indent=2) for hint in dict.fromkeys(c.hint for c in report.checks) if hint)


def _drawn(found: AdapterVerdict) -> Iterator[Block]:
    seed = f"{found.seed}" + (f" + {found.offset}" if found.offset is not None else "")
    yield Text(f"Seeds of P: {found.regime}, seed {seed}")
    if found.stream:
        yield Text(f"Drawn by {found.stream}, rounded to {found.dtype}")
    yield Text(f"{found.matched} of {found.modules} modules as expected")
    if found.delta_difference is not None:
        yield Text(
            f"{len(found.machine_dependent)} modules depend on the machine, their updates by at most "
            f"{found.delta_difference:.1e} of their norm"
        )


def _called(check: Check, checks: Sequence[Check]) -> str:
    """A check's name, with the stream where others have it too."""
    alone = sum(other.name == check.name for other in checks) == 1
    return check.name if alone or not check.stream else f"{check.name}, {check.stream}"


def _result(check: Check) -> str:
    if check.identical is None:
        return "ok" if check.ok else "FAILED"
    return "identical" if check.identical else "differs" if check.ok else "DIFFERS"
