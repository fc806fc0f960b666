"""`tinylora inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, base_option, numbering_options, output_options
from .output import Output
from .process import leave_threads_to_us
from .screens.blocks import Block, Facts, Table, columns
from .screens.words import by_kind, extent, plural, size, some_of
from .shell.command import Command

if TYPE_CHECKING:
    from ..ops.inspect.adapter import AdapterReport
    from ..ops.inspect.checkpoint import CheckpointReport
    from ..ops.inspect.packed import PackedReport


@click.command("inspect", cls=Command)
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
      tinylora inspect adapter --base Qwen2.5-0.5B --save adapter.svg
      tinylora inspect Qwen2.5-0.5B --json
    """
    leave_threads_to_us()
    from ..ops.inspect.run import inspect

    report = inspect(**given)
    out.report(report, _render, rows=_ROWS.get(report.kind))


def _render(report: AdapterReport | PackedReport | CheckpointReport) -> Iterator[Block]:
    from ..ops.inspect.adapter import AdapterReport
    from ..ops.inspect.packed import PackedReport

    if isinstance(report, AdapterReport):
        return _render_adapter(report)
    return _render_packed(report) if isinstance(report, PackedReport) else _render_checkpoint(report)


def _render_adapter(report: AdapterReport) -> Iterator[Block]:
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
    yield Facts("TinyLoRA adapter", report.path, facts)
    contents = [
        (_CONTENTS[part.part], f"{part.tensors:,}", f"{part.parameters:,}", size(part.bytes))
        for part in report.contents
    ]
    yield Table(columns("Content", "Tensors", "Parameters", "Bytes", texts=("Content",)), contents)
    modules = [
        (*map(_place, (row.index, row.group)), str(row.rank), f"{row.out_features} x {row.in_features}", row.name)
        for row in report.modules
    ]
    titles = columns("Index", "Group", "Rank", "Shape", "Module", names=("Module",), texts=("Shape",))
    yield Table(titles, modules, kinds=_kinds(report), of="module")


def _place(number: int | None) -> str:
    return "-" if number is None else str(number)


def _kinds(report: AdapterReport) -> Table:
    """The modules by their kind of layer."""
    rows = [
        (
            kind,
            str(len(modules)),
            "-" if any(m.group is None for m in modules) else str(len({m.group for m in modules})),
            extent(m.rank for m in modules),
            some_of(dict.fromkeys(f"{m.out_features} x {m.in_features}" for m in modules), 2),
        )
        for kind, modules in by_kind(report.modules).items()
    ]
    return Table(columns("Layers", "Count", "Groups", "Rank", "Shape", names=("Layers",), texts=("Shape",)), rows)


def _render_packed(report: PackedReport) -> Iterator[Block]:
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
    yield Facts("TinyLoRA adapter, packed", report.path, facts)


#: What a kind of report has a row each of.
_ROWS = {"tinylora-adapter": "modules", "checkpoint": "layers"}

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


def _render_checkpoint(report: CheckpointReport) -> Iterator[Block]:
    facts = {
        "Architecture": report.architecture or "unknown",
        "Parameters": f"{report.parameters:,} in {plural(report.tensors, 'tensor')}",
        "Files": f"{plural(len(report.shards), 'shard')}, {size(report.file_bytes)}",
    }
    if report.quantization:
        facts["Quantized"] = report.quantization
    if report.tied:
        facts["Tied"] = "; ".join(" = ".join(group) for group in report.tied)
    yield Facts("Checkpoint", report.path, facts)
    for title, counts in (("Dtype", report.dtypes), ("Layers", report.layers)):
        rows = [(label, f"{c.tensors:,}", f"{c.parameters:,}", size(c.bytes)) for label, c in counts.items()]
        yield Table(columns(title, "Tensors", "Parameters", "Bytes", texts=(title,)), rows)
    if len(report.shards) > 1:
        shards = [(shard.name, f"{shard.tensors:,}", size(shard.bytes)) for shard in report.shards]
        yield Table(columns("Shard", "Tensors", "Bytes", names=("Shard",)), shards, of="shard")
