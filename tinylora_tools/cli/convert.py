"""`tinylora convert`."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    base_option,
    json_option,
    located,
    module_order,
    module_order_option,
    names,
    release_option,
    stream_option,
)
from .output import plural, print_json, print_warnings, printable, size

if TYPE_CHECKING:
    from ..ops.convert.lora import LoraReport
    from ..ops.convert.packed import PackReport
    from ..ops.convert.peft import PeftReport


@click.command("convert")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Directory to make; packed: the file.",
)
@click.option("--to", "target", type=click.Choice(["lora", "peft", "packed"]), required=True, help="What to make.")
@click.option(
    "--from",
    "kind",
    type=click.Choice(
        ["peft", "packed", "anrgusc", "chi-shan0707", "cho104", "curiouscaliboi", "guokaku", "spuuntries"]
    ),
    help="Insist on what SOURCE is. Default: what its files tell.",
)
@base_option
@module_order_option
@release_option
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another project's adapter: what its files don't say, such as rank=2. Repeat for more.",
)
@click.option("--projection", metavar="FILE", help="Another project's adapter: a file with its P, where that is lost.")
@click.option(
    "--against",
    metavar="MERGED",
    help="Another project's adapter: a checkpoint that it was merged into, which tells the signs of singular pairs.",
)
@click.option("--scales", metavar="X,...", help="lora: a factor for the updates of each adapter, or one for all.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="lora: of the factors.",
)
@click.option("--rank-pattern", is_flag=True, help="lora: let ranks differ, instead of padding with zeros.")
@click.option(
    "--for",
    "server",
    type=click.Choice(["peft", "vllm"]),
    default="peft",
    show_default=True,
    help="lora: who is going to read it; what it can't take is refused.",
)
@click.option(
    "--save-projection/--no-save-projection",
    default=None,
    help="peft: put P into the file, or leave it out where its seed draws it again. Default: as it is.",
)
@click.option(
    "--adapter-dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="peft: of A, B and P; refused where it would round. Default: as it is.",
)
@click.option("--exact", is_flag=True, help="packed: correct every entry, so that the very adapter comes back.")
@click.option(
    "--v-dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="packed: of v; auto is bfloat16 where nothing is lost.",
)
@click.option("--device", default="cpu", show_default=True, help="Where factors are computed, if they have to be.")
@stream_option
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@json_option
def command(
    sources: tuple[str, ...],
    output: Path,
    target: str,
    kind: str | None,
    base: str | None,
    module_order_file: str | None,
    release: str | None,
    settings: tuple[str, ...],
    projection: str | None,
    against: str | None,
    scales: str | None,
    dtype: str,
    rank_pattern: bool,
    server: str,
    save_projection: bool | None,
    adapter_dtype: str | None,
    exact: bool,
    v_dtype: str,
    device: str,
    stream: str,
    force: bool,
    as_json: bool,
) -> None:
    """Convert TinyLoRA adapters into other forms.

    lora: a LoRA adapter with the same update, exactly, which PEFT, vLLM, SGLang and llama.cpp load. Several adapters
    become one whose rank is the sum of theirs.

    peft: the adapter in PEFT's files again: .bin as safetensors, without what PEFT 0.19 saved of other adapters, with P
    or without, in half the size where nothing is lost by it.

    packed: v and what it takes to make the rest again from the base: a kilobyte. Needs --base, and proves the way back
    before it writes.

    SOURCE is PEFT's adapter, a packed one, or one of six other projects; what their files don't say is asked for.

    \b
    Examples:
      tinylora convert adapter -o lora --to lora
      tinylora convert adapter -o lora --to lora --for vllm --dtype bfloat16
      tinylora convert first second -o lora --to lora --scales 1,0.5
      tinylora convert old-adapter -o adapter --to peft --save-projection --adapter-dtype bfloat16
      tinylora convert adapter -o adapter.safetensors --to packed --base models/Qwen2.5-0.5B
      tinylora convert adapter.safetensors -o adapter --to peft --base models/Qwen2.5-0.5B
      tinylora convert step_000000100 -o adapter --to peft --base models/Qwen2.5-0.5B --setting rank=2 --setting alpha=1
    """
    from ..adapters.third_party_options import ForeignOptions
    from .adapter_source import as_adapter

    paths = [path for path in map(located, sources) if path is not None]
    base_path, order = located(base), module_order(module_order_file)
    if target != "lora" and len(paths) > 1:
        raise click.UsageError(f"--to {target} takes one SOURCE.")
    if target == "packed" and base_path is None:
        raise click.UsageError("--to packed needs --base: it proves the way back.")
    options = ForeignOptions(_settings(settings), located(projection), located(against), stream, order, device)
    notes: list[str] = []
    report: LoraReport | PeftReport | PackReport
    # A new file may lie in an input's directory; what is replaced may not.
    apart = output if target != "packed" or output.exists() else None
    with ExitStack() as stack:
        adapters = [
            stack.enter_context(as_adapter(path, base_path, output=apart, kind=kind, options=options, notes=notes))
            for path in paths
        ]
        if target == "lora":
            lora = {
                "scales": _numbers(scales),
                "rank_pattern": rank_pattern,
                "server": server,
                "dtype": dtype,
                "stream": stream,
                "module_order": order,
                "release": release,
                "force": force,
            }
            report, line = _to_lora(adapters, output, base_path, lora)
        elif target == "peft":
            peft = (save_projection, adapter_dtype, stream, order, force)
            report, line = _to_peft(adapters[0], output, base_path, peft)
        else:
            packed = {"exact": exact, "v_dtype": v_dtype, "device": device, "module_order": order, "force": force}
            report, line = _to_packed(adapters[0], output, base_path, packed)
    report.warnings[:0] = notes
    print_warnings(report.warnings)
    if as_json:
        print_json(report)
    else:
        click.echo(f"Wrote {printable(report.output)}: {size(report.bytes_written)} in {report.seconds:.2f} s")
        click.echo(f"  {line}")


def _to_lora(paths: list[Path], output: Path, base: Path | None, options: dict[str, Any]) -> tuple[LoraReport, str]:
    from ..adapters.load import config_of_base
    from ..ops.convert.lora import LoraOptions, convert_to_lora

    report = convert_to_lora(paths, output, base_config=config_of_base(base), options=LoraOptions(**options))
    ranks = f"rank {report.rank}" if not report.ranks else f"ranks up to {report.rank}"
    return report, f"{plural(report.modules, 'module')}, {ranks}, {report.dtype}"


def _to_peft(path: Path, output: Path, base: Path | None, options: tuple[Any, ...]) -> tuple[PeftReport, str]:
    from ..adapters.load import config_of_base
    from ..ops.convert.peft import PeftOptions, convert_to_peft

    report = convert_to_peft(path, output, base_config=config_of_base(base), options=PeftOptions(*options))
    line = f"{plural(report.modules, 'module')}, {'with' if report.projection else 'without'} P"
    return report, line + (
        f", {plural(report.left_out, 'tensor')} of other adapters left out" if report.left_out else ""
    )


def _to_packed(path: Path, output: Path, base: Path | None, options: dict[str, Any]) -> tuple[PackReport, str]:
    from ..ops.convert.packed import pack
    from .process import keep_freed_memory

    if base is None:
        raise TypeError("packing needs a base")
    keep_freed_memory()
    options["tell"] = lambda text: print_warnings([text])
    if not sys.stderr.isatty():
        report = pack(path, base, output, **options)
    else:
        from .progress import byte_progress

        with byte_progress("Packing") as progress:
            report = pack(path, base, output, **options, progress=progress)
    line = f"{size(report.payload_bytes)} of v, {plural(report.corrections, 'correction')}"
    line += f", {size(report.other_bytes)} of other tensors" if report.other_bytes else ""
    exactly = "restores bit for bit" if report.identical else f"restores updates within {report.error:.1e}"
    return report, f"{line}; {exactly}"


def _settings(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--setting {pair!r}, expected NAME=VALUE.")
        found[name.strip().replace("-", "_")] = value.strip()
    return found


def _numbers(text: str | None) -> tuple[float, ...]:
    from ..errors import FormatError

    try:
        numbers = tuple(float(part) for part in names(text)) or (1.0,)
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise FormatError(f"--scales is {text!r}, expected finite numbers such as 1,0.5")
    return numbers
