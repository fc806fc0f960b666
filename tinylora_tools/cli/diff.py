"""`tinylora diff`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, architecture_option, cache_option, output_options, scale_option, several
from .output import Output
from .screens.blocks import Block, Items, Table, Text, columns
from .screens.words import kind_of, plural, scientific
from .shell.command import Command

if TYPE_CHECKING:
    from ..ops.diff import DiffReport, TensorDifference


@click.command("diff", cls=Command)
@click.argument("first", type=SOURCE, metavar="A")
@click.argument("second", type=SOURCE, metavar="B")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Tensors are equal up to this share of A's norm, whatever their dtypes; with 0 every bit counts.",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    type=SOURCE,
    metavar="ADAPTER",
    help="A is a merged model, and B its base: compare it with what a merge of this adapter into B writes.",
)
@scale_option
@architecture_option
@cache_option
@output_options
def command(
    first: str, second: str, adapters: tuple[str, ...], scales: tuple[float, ...], out: Output, **given: Any
) -> int:
    """Compare two adapters or two checkpoints. Exits with 0 when they are equal, 1 when not.

    A and B are directories or weights files. Tensors are compared as they are stored: the largest distance of two
    numbers, the norm of the difference over that of A, and the difference's rank above what rounding makes, which for a
    merged model beside its base is that of the adapter.

    \b
    Examples:
      tinylora diff merged Qwen2.5-0.5B --rows kinds
      tinylora diff first second --tolerance 1e-6
      tinylora diff merged Qwen2.5-0.5B --adapter adapter
    """
    from ..ops.diff import diff

    if scales and not adapters:
        raise click.UsageError("--scale is for --adapter.")
    scale = several(scales, adapters)
    with out.progress() as progress:
        if adapters:
            from ..ops.merge.expected import merged

            wanted = merged(adapters, like=first, base=second, scale=scale, progress=progress)
            report = diff(first, wanted, progress=progress, **given)
        else:
            report = diff(first, second, progress=progress, **given)
    out.report(report, _render, rows="differences")
    return 0 if report.equal else 1


def _render(report: DiffReport) -> Iterator[Block]:
    yield Text(f"{report.first} against {report.second}")
    yield Text(f"{plural(report.compared, 'tensor')} in both, {report.identical:,} the same in every bit", indent=2)
    titles = ("Max", "Relative", "ulp", "Rank")
    if report.differences:
        yield Table(
            columns("Tensor", *titles, names=("Tensor",)),
            [(one.name, *_figures([one])) for one in report.differences],
            kinds=_kinds(report.differences, titles),
            notes=[(one.name, note) for one in report.differences for note in _notes(one)],
            of="tensor",
        )
    for path, only in ((report.first, report.only_in_first), (report.second, report.only_in_second)):
        if only:
            yield Text(f"Only in {path}:")
            yield Items(only, of="tensor")
    if report.settings:
        yield Text("Settings that differ:")
        yield Items([f"{name}: {mine} and {other}" for name, (mine, other) in report.settings.items()], of="setting")
    within = f" within {report.tolerance:g}" if report.tolerance else ""
    yield Text(f"Equal{within}." if report.equal else f"Not equal{within}.", "good" if report.equal else "bad")


def _kinds(found: Sequence[TensorDifference], titles: Sequence[str]) -> Table:
    kinds: dict[str, list[TensorDifference]] = {}
    for one in found:
        module, _, parameter = one.name.rpartition(".")
        kinds.setdefault(f"{kind_of(module)}.{parameter}" if module else parameter, []).append(one)
    rows = [(kind, str(len(of)), *_figures(of)) for kind, of in kinds.items()]
    return Table(columns("Tensors", "Count", *titles, names=("Tensors",)), rows)


def _figures(found: Sequence[TensorDifference]) -> tuple[str, str, str, str]:
    """The largest of each figure."""
    ulp = max((one.max_ulp for one in found if one.max_ulp is not None), default=None)
    rank = max((one.rank for one in found if one.rank is not None), default=None)
    return (
        scientific(max((one.max_abs for one in found if one.max_abs is not None), default=None)),
        scientific(max((one.relative for one in found if one.relative is not None), default=None)),
        "" if ulp is None else str(ulp),
        "" if rank is None else "40+" if rank == 40 else str(rank),
    )


def _notes(one: TensorDifference) -> Iterator[str]:
    if one.shapes[0] != one.shapes[1]:
        yield f"its shapes are {' and '.join(' x '.join(map(str, shape)) or 'of one number' for shape in one.shapes)}"
    if one.dtypes[0] != one.dtypes[1]:
        yield f"its dtypes are {' and '.join(one.dtypes)}"
