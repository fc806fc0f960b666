"""`tinylora architecture`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import SOURCE, force_option, output_option, output_options
from .output import Output
from .screens.blocks import Block, Text
from .screens.words import plural
from .shell.command import Command

if TYPE_CHECKING:
    from ..ops.architecture.run import ArchitectureReport


@click.command("architecture", cls=Command)
@click.argument("base", type=SOURCE, metavar="BASE")
@output_option("FILE", "Write the description here, for the other commands' --architecture.", required=False)
@click.option("--trust-remote-code", is_flag=True, help="Run code that BASE brings along. Only if you trust it.")
@force_option
@output_options
def command(base: str, output: Path | None, trust_remote_code: bool, force: bool, out: Output) -> None:
    """Describe BASE's model as the installed transformers has it.

    For models that the data of this release lack: the order and kinds of the modules, what they are called in the
    checkpoint, which weights are tied and which embeddings scaled. The model is built without weights, in seconds.
    Needs transformers.

    \b
    Examples:
      tinylora architecture Mine-7B -o mine.json
      tinylora merge adapter --base Mine-7B --architecture mine.json -o merged
    """
    from ..ops.architecture.run import architecture

    report = architecture(base, output, trust_remote_code=trust_remote_code, force=force)
    out.report(report, _render)


def _render(report: ArchitectureReport) -> Iterator[Block]:
    yield Text(f"{report.class_name} of transformers {report.transformers} ({report.model_type})")
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.modules.items())
    yield _fact("modules", kinds or "no checkpoint here to count them")
    for members in report.ties:
        yield _fact("tied", " = ".join(members))
    for name, factor in report.scaled.items():
        yield _fact("scaled", f"{name} by {factor:.6g}")
    for name, stored in report.renamed.items():
        yield _fact("stored", f"{name} as {stored}")
    for what, names in (("missing", report.missing), ("extra", report.unexpected)):
        if names:
            yield _fact(what, f"{plural(len(names), 'name')}, such as {names[0]}")
    if report.output is not None:
        yield Text(f"{report.output} describes {', '.join(report.classes)}.", "bold")


def _fact(label: str, text: str) -> Text:
    return Text(f"{label:<9} {text}", indent=2, hang=10)
