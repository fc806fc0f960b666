"""`tinylora count`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .config_options import adapter_dtype_option, adapter_options
from .options import SOURCE, output_options
from .output import Output, new_table, plural, print_facts, print_table, printable, size

if TYPE_CHECKING:
    from ..ops.create.count import CountReport


@click.command("count")
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
      tinylora count models/Qwen2.5-0.5B --target-modules all-linear -u 13 --weight-tying 1
      tinylora count models/Qwen2.5-0.5B --target-modules all-linear --budget 13
    """
    from ..ops.create.count import count

    out.report(count(**given), _render)


def _render(report: CountReport) -> None:
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
    print_facts("TinyLoRA adapter", f"of {report.base}", facts)
    if report.budget is None:
        _render_groups(report)
    else:
        _render_budget(report)


def _render_groups(report: CountReport) -> None:
    table = new_table("Group", "Parameters", "Modules", "Shared by", left=("Shared by",))
    for group in report.groups:
        first, last = group.modules[0], group.modules[-1]
        shared = first if first == last else f"{first} to {last}"
        table.add_row(str(group.group), str(group.parameters), str(len(group.modules)), printable(shared))
    print_table(table)


def _render_budget(report: CountReport) -> None:
    table = new_table("u", "Weight tying", "Groups", "Parameters", "bf16")
    for s in report.settings:
        table.add_row(
            str(s.u),
            f"{s.weight_tying:g}",
            str(s.groups),
            str(s.trainable_parameters),
            size(2 * s.trainable_parameters),
        )
    print_table(table)
