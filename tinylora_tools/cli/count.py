"""`tinylora count`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .config_options import adapter_dtype_option, adapter_options
from .options import SOURCE, output_options
from .output import Output
from .screens.blocks import Block, Facts, Table, columns
from .screens.words import plural, size
from .shell.command import Command

if TYPE_CHECKING:
    from ..ops.create.count import CountReport


@click.command("count", cls=Command)
@click.argument("base", type=SOURCE, metavar="BASE")
@adapter_options
@adapter_dtype_option
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    metavar="N",
    help="List the settings of u and weight tying that train at most N parameters.",
)
@output_options
def command(out: Output, **given: Any) -> None:
    """Count what an adapter of BASE would train and store, from the checkpoint's headers alone.

    \b
    Examples:
      tinylora count Qwen2.5-0.5B -u 13 --weight-tying 1
      tinylora count Qwen2.5-0.5B --target-modules all-linear --budget 13
    """
    from ..ops.create.count import count

    report = count(**given)
    out.report(report, _render, rows="groups" if report.budget is None else "settings")


def _render(report: CountReport) -> Iterator[Block]:
    wanted = report.target_modules
    targets = wanted if isinstance(wanted, str) else ", ".join(wanted)
    trainable = f"{plural(report.trainable_parameters, 'parameter')} in {plural(len(report.groups), 'group')}"
    dtypes = ", ".join(f"{size(count)} in {name}" for name, count in report.trainable_bytes_by_dtype.items())
    facts = {
        "Architecture": report.architecture or "unknown",
        "Targets": f"{targets}: {plural(len(report.modules), 'module')}",
        "Trainable": f"{trainable}: {dtypes}",
        "PEFT's file": f"{size(report.stored_bytes_with_projection)} with P, "
        f"{size(report.stored_bytes_without_projection)} without; {plural(report.stored_parameters, 'parameter')}",
    }
    apart = {
        "Biases": (report.bias_parameters, "trained too"),
        "Modules to save": (report.modules_to_save_parameters, "trained too"),
        "Embeddings": (report.embedding_parameters, "stored whole, not trained"),
    }
    facts |= {label: f"{plural(n, 'parameter')}, {what}" for label, (n, what) in apart.items() if n}
    yield Facts("TinyLoRA adapter", f"of {report.base}", facts)
    yield _groups(report) if report.budget is None else _budget(report)


def _groups(report: CountReport) -> Table:
    rows = []
    for group in report.groups:
        first, last = group.modules[0], group.modules[-1]
        rows.append((str(group.group), str(group.parameters), str(len(group.modules)), first, last))
    titles = columns("Group", "Parameters", "Modules", "From", "To", names=("From", "To"))
    return Table(titles, rows, kinds=_alike(report), of="group")


def _alike(report: CountReport) -> Table:
    """Groups of as many parameters and modules, as one row."""
    sizes = Counter((group.parameters, len(group.modules)) for group in report.groups)
    rows = [(str(groups), str(parameters), str(modules)) for (parameters, modules), groups in sizes.items()]
    return Table(columns("Groups", "Parameters each", "Modules each"), rows)


def _budget(report: CountReport) -> Table:
    rows = [
        (str(s.u), f"{s.weight_tying:g}", str(s.groups), str(s.trainable_parameters), size(2 * s.trainable_parameters))
        for s in report.settings
    ]
    return Table(columns("u", "Weight tying", "Groups", "Parameters", "bf16"), rows, of="setting")
