"""`tinylora convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import base_option, json_option, located, module_order, module_order_option, names, stream_option
from .terminal import plural, print_json, print_warnings, printable, size

if TYPE_CHECKING:
    from ..ops.convert_lora import LoraReport
    from ..ops.convert_peft import PeftReport


@click.command("convert")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT", help="Directory to make."
)
@click.option("--to", "target", type=click.Choice(["lora", "peft"]), required=True, help="What to make.")
@base_option
@module_order_option
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
@stream_option
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@json_option
def command(
    sources: tuple[str, ...],
    output: Path,
    target: str,
    base: str | None,
    module_order_file: str | None,
    scales: str | None,
    dtype: str,
    rank_pattern: bool,
    server: str,
    save_projection: bool | None,
    adapter_dtype: str | None,
    stream: str,
    force: bool,
    as_json: bool,
) -> None:
    """Convert TinyLoRA adapters into other forms.

    lora: a LoRA adapter with the same update, exactly, which PEFT, vLLM, SGLang and llama.cpp load. Several adapters
    become one whose rank is the sum of theirs.

    peft: the adapter in PEFT's files again: .bin as safetensors, without what PEFT 0.19 saved of other adapters, with P
    or without, in half the size where nothing is lost by it.

    \b
    Examples:
      tinylora convert adapter -o lora --to lora
      tinylora convert adapter -o lora --to lora --for vllm --dtype bfloat16
      tinylora convert first second -o lora --to lora --scales 1,0.5
      tinylora convert old-adapter -o adapter --to peft --save-projection --adapter-dtype bfloat16
    """
    from ..ops.load import config_of_base

    paths = [path for path in map(located, sources) if path is not None]
    base_config, order = config_of_base(located(base)), module_order(module_order_file)
    report: LoraReport | PeftReport
    if target == "lora":
        from ..ops.convert_lora import LoraOptions, convert_to_lora

        report = convert_to_lora(
            paths,
            output,
            base_config=base_config,
            options=LoraOptions(
                scales=_numbers(scales),
                rank_pattern=rank_pattern,
                server="vllm" if server == "vllm" else "peft",
                dtype=dtype,
                stream=stream,
                module_order=order,
                force=force,
            ),
        )
        ranks = f"rank {report.rank}" if not report.ranks else f"ranks up to {report.rank}"
        line = f"{plural(report.modules, 'module')}, {ranks}, {report.dtype}"
    else:
        from ..ops.convert_peft import PeftOptions, convert_to_peft

        if len(paths) > 1:
            raise click.UsageError("--to peft takes one SOURCE.")
        report = convert_to_peft(
            paths[0],
            output,
            base_config=base_config,
            options=PeftOptions(save_projection, adapter_dtype, stream, order, force),
        )
        line = f"{plural(report.modules, 'module')}, {'with' if report.projection else 'without'} P"
        line += f", {plural(report.left_out, 'tensor')} of other adapters left out" if report.left_out else ""
    print_warnings(report.warnings)
    if as_json:
        print_json(report)
    else:
        click.echo(f"Wrote {printable(report.output)}: {size(report.bytes_written)} in {report.seconds:.2f} s")
        click.echo(f"  {line}")


def _numbers(text: str | None) -> tuple[float, ...]:
    from ..errors import FormatError

    try:
        return tuple(float(part) for part in names(text)) or (1.0,)
    except ValueError:
        raise FormatError(f"--scales is {text!r}, expected numbers such as 1,0.5") from None
