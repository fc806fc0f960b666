"""`tinylora inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, base_option, numbering_options, output_options
from .output import Output, new_table, plural, print_facts, print_table, printable, size
from .process import leave_threads_to_us

if TYPE_CHECKING:
    from ..ops.inspect.adapter import AdapterReport
    from ..ops.inspect.checkpoint import CheckpointReport
    from ..ops.inspect.packed import PackedReport


@click.command("inspect")
@click.argument("source", type=SOURCE, metavar="SOURCE")
@base_option
@numbering_options
@output_options
def command(out: Output, **given: Any) -> None:
    """Show what is in an adapter or a checkpoint.

    SOURCE is an adapter's directory, a .safetensors or .bin file, or a checkpoint's directory. Only headers and an
    adapter's smallest tensors are read; all of an adapter's own, where its file records their digests.

    \b
    Examples:
      tinylora inspect adapter
      tinylora inspect adapter_model.safetensors --base models/Qwen2.5-0.5B
      tinylora inspect models/Qwen2.5-0.5B --json
    """
    leave_threads_to_us()
    from ..ops.inspect.run import inspect

    out.report(inspect(**given), _render)


def _render(report: AdapterReport | PackedReport | CheckpointReport) -> None:
    from ..ops.inspect.adapter import AdapterReport
    from ..ops.inspect.packed import PackedReport

    if isinstance(report, AdapterReport):
        _render_adapter(report)
    elif isinstance(report, PackedReport):
        _render_packed(report)
    else:
        _render_checkpoint(report)


def _render_adapter(report: AdapterReport) -> None:
    config = report.config or {}
    settings = [
        f"{key}={config[key]}" for key in ("r", "u", "weight_tying", "projection_seed", "bias") if key in config
    ]
    facts = {
        "Trainable": f"{plural(report.trainable_parameters, 'parameter')} in {plural(report.groups, 'group')}: "
        f"{size(report.trainable_bytes)} as stored, {size(report.trainable_bytes_bf16)} in bf16",
        "File": f"{size(report.file_bytes)}, {plural(report.stored_parameters, 'parameter')}",
        "Written by": f"PEFT {report.peft_version}" if report.peft_version else "unknown",
        "Settings": ", ".join(settings) or "unknown",
        "Base": report.base_model or "unknown",
        "Seeds of P": report.regime,
        "Module order": _ORDERS.get(report.order_from, f"from {report.order_from}"),
    }
    if report.digests is not None:
        facts["Digests"] = "A, B, P and v are as the file recorded them"
    if report.head is not None:
        labels = "labels unknown" if report.head.labels is None else plural(report.head.labels, "label")
        facts["Head"] = f"{', '.join(report.head.modules)}: {labels}"
    print_facts("TinyLoRA adapter", report.path, facts)
    contents = new_table("Content", "Tensors", "Parameters", "Bytes")
    for part in report.contents:
        contents.add_row(_CONTENTS[part.part], f"{part.tensors:,}", f"{part.parameters:,}", size(part.bytes))
    print_table(contents)
    modules = new_table("Index", "Group", "Rank", "Shape", "Module", left=("Shape", "Module"))
    for row in report.modules:
        place = ("-" if number is None else str(number) for number in (row.index, row.group))
        modules.add_row(*place, str(row.rank), f"{row.out_features} x {row.in_features}", printable(row.name))
    print_table(modules)


def _render_packed(report: PackedReport) -> None:
    facts = {
        "Trainable": f"{plural(report.trainable_parameters, 'parameter')} in {plural(report.groups, 'group')}: "
        f"{size(report.trainable_bytes)} as stored",
        "File": size(report.file_bytes),
        "Corrections": f"{report.corrections:,} entries of the factors, {size(report.correction_bytes)}",
        "Restores": "bit for bit" if report.error == 0.0 else f"updates within {report.error:.1e} of their norm",
        "Drawn by": report.stream or "nothing known: P is in the file",
        "Base": f"{report.base_model or 'unknown'}, weights {report.weights[:12]}...",
    }
    if report.other_bytes:
        facts["Other tensors"] = size(report.other_bytes)
    print_facts("TinyLoRA adapter, packed", report.path, facts)


_ORDERS = {"given": "from --module-order", "unknown": "unknown"}

_CONTENTS = {
    "A": "A, right factors",
    "B": "B, left factors",
    "P": "P, projections",
    "v": "v, trained",
    "bias": "biases",
    "other": "other base tensors",
    "leaked": "another adapter's",
    "unknown": "unknown",
}


def _render_checkpoint(report: CheckpointReport) -> None:
    facts = {
        "Architecture": report.architecture or "unknown",
        "Parameters": f"{report.parameters:,} in {plural(report.tensors, 'tensor')}",
        "Files": f"{plural(len(report.shards), 'shard')}, {size(report.file_bytes)}",
    }
    if report.quantization:
        facts["Quantized"] = report.quantization
    if report.tied:
        facts["Tied"] = "; ".join(" = ".join(group) for group in report.tied)
    print_facts("Checkpoint", report.path, facts)
    for title, counts in (("Dtype", report.dtypes), ("Layers", report.layers)):
        table = new_table(title, "Tensors", "Parameters", "Bytes")
        for label, count in counts.items():
            table.add_row(label, f"{count.tensors:,}", f"{count.parameters:,}", size(count.bytes))
        print_table(table)
    if len(report.shards) > 1:
        table = new_table("Shard", "Tensors", "Bytes")
        for shard in report.shards:
            table.add_row(printable(shard.name), f"{shard.tensors:,}", size(shard.bytes))
        print_table(table)
