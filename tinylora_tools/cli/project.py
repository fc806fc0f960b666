"""`tinylora project`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    SOURCE,
    Dtype,
    base_option,
    cache_option,
    force_option,
    numbering_options,
    output_option,
    output_options,
    stream_option,
)
from .output import Output
from .screens.blocks import Block, Text
from .screens.paragraph import paragraph
from .screens.terminal import print_lines
from .screens.words import plural
from .shell.command import Command

if TYPE_CHECKING:
    from ..ops.project import ProjectReport


@click.command("project", cls=Command)
@click.argument("adapter", required=False, type=SOURCE, metavar="[ADAPTER]")
@click.option("--seed", type=int, help="The projection seed: P.i is drawn from seed + i.")
@click.option("-u", type=int, help="Length of the trained vector.")
@click.option("-r", "--rank", "r", type=int, help="Rank of the factors.")
@click.option("--count", type=click.IntRange(min=1), help="How many modules. Default: 1.")
@stream_option
@click.option(
    "--dtype",
    type=Dtype(),
    help="What P is rounded to: the dtype of the weights that the adapter was trained on. Default: float32.",
)
@output_option("OUT", "A .safetensors file, or a directory.", required=False)
@click.option("--digest", is_flag=True, help="Print the sha256 of each P (little-endian bytes).")
@base_option
@numbering_options
@cache_option
@force_option
@output_options
def command(
    adapter: str | None,
    seed: int | None,
    u: int | None,
    r: int | None,
    count: int | None,
    stream: str,
    dtype: str | None,
    output: Path | None,
    digest: bool,
    base: str | None,
    force: bool,
    out: Output,
    **told: Any,
) -> None:
    """Draw the projections P from a seed, bit for bit as PyTorch does.

    With ADAPTER and -o, writes the same adapter with its P in the file (save_projection true), so that PEFT loads the
    same P on every machine.

    \b
    Examples:
      tinylora project --seed 42 -u 13 -r 2 --count 196 --digest
      tinylora project adapter -o adapter-with-projections
    """
    from ..ops.project import project, project_seeds

    if adapter is not None:
        own = {"--seed": seed, "-u": u, "-r": r, "--count": count, "--dtype": dtype}
        if output is None or any(value is not None for value in own.values()):
            raise click.UsageError(f"With ADAPTER, give -o OUT, and none of {', '.join(own)}: the adapter has them.")
        report = project(adapter, output, base=base, stream=stream, force=force, **told)
    else:
        if base is not None or any(told.values()):
            raise click.UsageError("--base, --module-order and their like tell of an adapter; none is given.")
        if seed is None or u is None or r is None:
            raise click.UsageError("Give --seed, -u and -r, or an adapter.")
        if output is None and not digest and not out.as_json:
            raise click.UsageError("Say what to do with P: -o FILE, --digest or --json.")
        report = project_seeds(
            seed, u, r, count or 1, stream=stream, dtype=dtype or "float32", output=output, force=force
        )
    if digest and report.output and not out.quiet:
        print_lines(paragraph(_written(report), None), err=True)
    out.report(report, lambda report: _render(report, digest), rows="tensors")


def _render(report: ProjectReport, digest: bool) -> Iterator[Block]:
    if digest:  # as sha256sum has them, alone
        yield from (Text(f"{tensor.sha256}  {tensor.name}") for tensor in report.tensors)
    elif report.output:
        yield Text(_written(report))


def _written(report: ProjectReport) -> str:
    return f"Wrote {report.output}: {plural(len(report.tensors), 'projection')} drawn, {report.stream}"
