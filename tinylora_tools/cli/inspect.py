"""`tinylora inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, base_option, numbering_options, output_options
from .output import Output
from .screens.blocks import Block, Facts, Table, Text, columns
from .screens.words import bars, by_kind, extent, plural, scientific, size, some_of
from .shell.command import Command
from .shell.process import leave_threads_to_us

if TYPE_CHECKING:
    from ..ops.inspect.adapter import AdapterReport
    from ..ops.inspect.checkpoint import CheckpointReport
    from ..ops.inspect.files import FilesReport
    from ..ops.inspect.packed import PackedReport
    from ..ops.inspect.rounding import RoundingLoss
    from ..ops.inspect.several import SeveralReport
    from ..ops.inspect.third_party import ThirdPartyReport
    from ..ops.inspect.vectors import VectorRow, VectorSize

    Report = AdapterReport | PackedReport | CheckpointReport | ThirdPartyReport


@click.command("inspect", cls=Command)
@click.argument("sources", nargs=-1, required=True, type=SOURCE, metavar="SOURCE...")
@base_option
@numbering_options
@click.option(
    "--check",
    is_flag=True,
    help="Compare the files of one SOURCE with the digests that the Hub records of them, instead of describing it.",
)
@output_options
def command(sources: tuple[str, ...], check: bool, out: Output, **given: Any) -> int:
    """Show what is in adapters or checkpoints.

    SOURCE is an adapter's directory, a .safetensors or .bin file, or a checkpoint's directory. Only headers and an
    adapter's smallest tensors are read; all of an adapter's own, where its file records their digests; and with --base
    a few weights, to say how much of the update a merge in bfloat16 would lose. Several get a row each, or with --rows
    all one screen after the other; those that can't be read are named, and make the exit code 1.

    \b
    Examples:
      tinylora inspect adapter
      tinylora inspect adapter --base Qwen2.5-0.5B --save adapter.svg
      tinylora inspect first second Qwen2.5-0.5B --format csv
    """
    leave_threads_to_us()
    if check:
        return _check(sources, out)
    from ..ops.inspect.run import inspect
    from ..ops.inspect.several import inspect_several

    if len(sources) == 1:
        report = inspect(sources[0], **given)
        pictures = out.rows != "auto" or out.save is not None
        out.report(report, lambda report: _render(report, pictures=pictures), rows=_ROWS.get(report.kind))
        return 0
    several = inspect_several(sources, **given)
    out.report(several, _render_whole if out.rows == "all" else _render_rows, rows="sources")
    return 0 if several.ok else 1


def _check(sources: tuple[str, ...], out: Output) -> int:
    from ..ops.inspect.files import check_files

    if len(sources) > 1:
        raise click.UsageError("--check takes one SOURCE.")
    with out.progress() as progress:
        report = check_files(sources[0], progress=progress)
    out.report(report, _render_files, rows="files")
    return 0 if report.ok else 1


def _render_files(report: FilesReport) -> Iterator[Block]:
    yield Facts("Files", report.path, {"Recorded by": report.recorded_by})
    rows = [(one.name, _VERDICTS[one.verdict], size(one.bytes)) for one in report.files]
    yield Table(columns("File", "Verdict", "Bytes", names=("File",), texts=("Verdict",)), rows, of="file", whole=True)
    counts = {verdict: sum(one.verdict == verdict for one in report.files) for verdict in _VERDICTS}
    said = f"{plural(counts['same'], 'file')} as the Hub records"
    more = [f"{counts[verdict]} {word}" for verdict, word in _VERDICTS.items() if counts[verdict] and verdict != "same"]
    yield Text(f"{', '.join([said, *more])}.", "good" if report.ok else "bad")
    if not report.ok:
        yield Text("Fetch what differs again: `hf download` with --force-download.")


_VERDICTS = {"same": "same", "differs": "differs", "not-recorded": "not recorded", "not-here": "not here"}


def _render_whole(several: SeveralReport) -> Iterator[Block]:
    for row in several.sources:
        if row.report is not None:
            yield from _render(row.report)
        else:
            yield Text(f"{row.source}: {row.error}", "bad")


def _render_rows(several: SeveralReport) -> Iterator[Block]:
    rows = [
        (
            row.source,
            "-" if row.kind is None else _KINDS.get(row.kind, row.kind),
            "" if row.parameters is None else f"{row.parameters:,}",
            "" if row.groups is None else f"{row.groups:,}",
            "" if row.bytes is None else size(row.bytes),
        )
        for row in several.sources
    ]
    titles = columns("Source", "Kind", "Parameters", "Groups", "File", names=("Source",), texts=("Kind",))
    yield Table(titles, rows, notes=[(row.source, row.error) for row in several.sources if row.error], whole=True)
    failed = sum(row.error is not None for row in several.sources)
    if failed:
        yield Text(f"{failed} of {len(several.sources)} can't be read.", "bad")


_KINDS = {"tinylora-adapter": "adapter", "tinylora-packed": "packed", "third-party": "another project's"}


def _render(report: Report, *, pictures: bool = False) -> Iterator[Block]:
    from ..ops.inspect.adapter import AdapterReport
    from ..ops.inspect.packed import PackedReport
    from ..ops.inspect.third_party import ThirdPartyReport

    if isinstance(report, AdapterReport):
        return _render_adapter(report, pictures=pictures)
    if isinstance(report, ThirdPartyReport):
        return _render_third_party(report)
    return _render_packed(report) if isinstance(report, PackedReport) else _render_checkpoint(report)


def _render_adapter(report: AdapterReport, *, pictures: bool = False) -> Iterator[Block]:
    config = report.config or {}
    settings = [
        f"{key}={config[key]}" for key in ("r", "u", "weight_tying", "projection_seed", "bias") if key in config
    ]
    facts = {
        "Trainable": f"{plural(report.trainable_parameters, 'parameter')} in {plural(report.groups, 'group')}: "
        f"{size(report.trainable_bytes)} as stored, {size(report.trainable_bytes_bf16)} in bf16",
        "Size of v": _size_of_v(report.vectors),
        **_lost(report.rounding),
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
    yield Text("`tinylora help group`, or index, or rank, tells what a column is.", "faint")
    if pictures and report.values:
        yield Text("The size of each number of v, over the largest:")
        yield Table(columns("Group", "Modules", "Size", "v", texts=("v",)), _bars(report.values), of="group")


def _bars(values: Sequence[VectorRow]) -> list[tuple[str, str, str, str]]:
    """A row a group; of many numbers the first ones."""
    most = max((abs(x) for row in values for x in row.numbers if x is not None), default=0.0) or 1.0
    return [
        (
            str(row.group),
            "-" if row.modules is None else str(row.modules),
            "not finite" if row.rms is None else scientific(row.rms),
            bars(abs(x or 0.0) / most for x in row.numbers[:_BARS]) + ("..." if len(row.numbers) > _BARS else ""),
        )
        for row in values
    ]


#: Numbers of a v that are drawn.
_BARS = 40


def _lost(rounding: RoundingLoss | None) -> dict[str, str]:
    if rounding is None:
        return {}
    looked = plural(rounding.modules, "module")
    return {"Merged": f"in {rounding.dtype}, rounding changes the update by {rounding.share:.2%} ({looked} looked at)"}


def _size_of_v(vectors: VectorSize | None) -> str:
    if vectors is None:
        return "no v in the file"
    if vectors.largest == 0.0:
        return f"all zero, in {', '.join(vectors.dtypes)}: nothing was trained"
    more = f", {vectors.not_finite} not finite" if vectors.not_finite else ""
    return f"{vectors.rms:.1e} on average, at most {vectors.largest:.1e}, in {', '.join(vectors.dtypes)}{more}"


def _render_third_party(report: ThirdPartyReport) -> Iterator[Block]:
    facts = {"Project": report.dialect}
    if report.unknown is not None:
        facts["Not told"] = report.unknown
    else:
        trained = f"{plural(report.trainable_parameters or 0, 'parameter')} in {plural(report.groups or 0, 'group')}"
        facts |= {
            "Trainable": trained,
            "Size of v": _size_of_v(report.vectors),
            **_lost(report.rounding),
            "Settings": f"r={report.rank}, u={report.u}",
            "Modules": "not in the file" if report.modules is None else f"{report.modules:,}",
            "Computed in": "the weight's dtype" if report.trained_in == "weight" else report.trained_in or "unknown",
            "Base": report.base_model or "unknown",
        }
    yield Facts("Another project's adapter", report.path, facts)


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
