"""`tinylora verify-base`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import (
    SOURCE,
    architecture_option,
    base_option,
    cache_option,
    device_option,
    output_options,
    threads_option,
)
from .output import Output
from .screens.blocks import Block, Items, Table, Text, columns
from .screens.words import by_kind, plural, scientific, some_of
from .shell.command import DividedCommand
from .shell.process import keep_freed_memory

if TYPE_CHECKING:
    from ..ops.verify.base import BaseReport, ModuleVerdict

_BY = {"manifest": "the manifest", "hub": "the Hub's digest of", "packed": "the packed adapter"}

_SAID = {
    "same-weights": "The targeted weights fit the adapter's factors",
    "other-dtype": "The targeted weights fit the adapter's factors, in another dtype",
    "fine-tuned": "The factors are of a relative of this base: its weights have moved since",
    "other-model": "The factors are of another model",
    "unknown": "Nothing tells whether all targeted weights fit the adapter's factors",
}

_NEXT = {
    "fine-tuned": "Merge into the base that the adapter was trained on; on this one its update is another.",
    "other-model": "Name the base that the adapter was trained on: --base DIR.",
    "unknown": "The notes say what keeps weights from being compared.",
}


@click.command("verify-base", cls=DividedCommand)
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
@cache_option
@output_options
def command(out: Output, **given: Any) -> int:
    """Verify that ADAPTER's factors belong to a base. Exits with 0 when they do, 1 when not.

    Tells apart the same weights, the same in another dtype (both 0), a fine-tuned relative's and another model's (both
    1). These are the targeted weights; others aren't looked at, but with --all: then it exits with 0 when each of them,
    too, is recorded somewhere and as it was recorded.

    \b
    Examples:
      tinylora verify-base adapter --base Qwen2.5-0.5B
      tinylora verify-base adapter --base Qwen2.5-0.5B --against merged --json
    """
    keep_freed_memory()
    from ..ops.verify.base import verify_base

    with out.progress() as progress:
        report = verify_base(progress=progress, **given)
    out.report(report, _render, rows="modules")
    return 0 if report.ok else 1


def _render(report: BaseReport) -> Iterator[Block]:
    from ..ops.verify.base import by_verdict

    counts = ", ".join(f"{count} {verdict}" for verdict, count in by_verdict(report).items())
    yield Text(f"{report.adapter} against {report.base}")
    modules = plural(len(report.modules), "module")
    yield Text(f"{modules}: {counts or 'none'}; {report.recomputed} factored anew", indent=2)
    worst_first = sorted(report.modules, key=lambda m: (m.verdict == report.verdict, m.rho or 0.0), reverse=True)
    titles = ("Verdict", "Residual", "Agreement", "Difference", "Gap")
    yield Table(
        columns("Module", *titles, names=("Module",), texts=("Verdict",)),
        [(m.name, m.verdict, *_figures([m])) for m in worst_first],
        kinds=_kinds(worst_first, titles),
        notes=[(m.name, m.note) for m in worst_first if m.note],
        of="module",
    )
    yield Text("`tinylora help residual`, or agreement, or gap, tells what a column is.", "faint")
    if report.verdict in _NEXT:
        names = [m.name for m in worst_first if m.verdict == report.verdict]
        yield Text(f"{report.verdict}: {some_of(names, 5)}")
    if report.all_tensors:
        yield from _records(report)
    yield Text(f"{_SAID[report.verdict]}; {_of_the_others(report)}.", "good" if report.ok else "bad")
    if report.verdict in _NEXT:
        yield Text(f"next: {_NEXT[report.verdict]}", indent=2)


def _kinds(modules: Sequence[ModuleVerdict], titles: Sequence[str]) -> Table:
    """Modules by their kind of layer and their verdict, each with its worst figures."""
    rows = []
    for verdict in dict.fromkeys(m.verdict for m in modules):
        for kind, alike in by_kind(m for m in modules if m.verdict == verdict).items():
            rows.append((kind, str(len(alike)), verdict, *_figures(alike)))
    return Table(columns("Layers", "Count", *titles, names=("Layers",), texts=("Verdict",)), rows)


def _figures(modules: Sequence[ModuleVerdict]) -> tuple[str, str, str, str]:
    """The largest residual, the least agreement, the largest difference and the smallest gap, where there are any."""
    agreement = min((m.agreement for m in modules if m.agreement is not None), default=None)
    return (
        scientific(max((m.rho for m in modules if m.rho is not None), default=None)),
        "" if agreement is None else f"{agreement:.2%}",
        scientific(max((m.difference for m in modules if m.difference is not None), default=None)),
        scientific(min((m.gap for m in modules if m.gap is not None), default=None)),
    )


def _records(report: BaseReport) -> Iterator[Block]:
    """What tensors were compared with, what differs, and what wasn't compared."""
    for record in report.records:
        yield Text(f"{plural(record.tensors, 'tensor')} compared by {_BY[record.kind]} {record.path}", indent=2)
    if report.differences:
        yield Items([f"{one.name}: {one.what}" for one in report.differences], of="difference")
    if report.not_compared:
        yield Text(f"not compared: {some_of(report.not_compared)}", indent=2)


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
