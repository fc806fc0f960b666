"""`tinylora init`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from .config_options import adapter_dtype_option, adapter_options
from .options import (
    SOURCE,
    device_option,
    force_option,
    output_option,
    output_options,
    stream_option,
    threads_option,
)
from .output import Output
from .screens.blocks import Block, written
from .screens.words import plural
from .shell.command import DividedCommand
from .shell.process import keep_freed_memory
from .shell.pushing import push_option

if TYPE_CHECKING:
    from ..formats.peft.config import TinyLoraConfig
    from ..ops.create.init import InitReport


@click.command("init", cls=DividedCommand)
@click.argument("base", type=SOURCE, metavar="BASE")
@output_option("OUT", "Directory to make.")
@adapter_options
@adapter_dtype_option
@click.option(
    "--init-seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of --init-weights uniform; recorded."
)
@click.option("--base-model", metavar="NAME", help="What adapter_config.json names as the base. Default: BASE's path.")
@stream_option
@device_option
@threads_option
@force_option
@output_options
@push_option
def command(config: TinyLoraConfig, base_model: str | None, out: Output, **given: Any) -> None:
    """Make a new adapter of BASE in PEFT's format, from the checkpoint's files alone.

    The options are TinyLoraConfig's fields, with PEFT's defaults and PEFT's matching of modules. Load it with
    PeftModel.from_pretrained(model, OUT, is_trainable=True) to train it.

    \b
    Examples:
      tinylora init Qwen2.5-0.5B -o adapter -u 13 --weight-tying 1
      tinylora init Qwen2.5-0.5B -o adapter -r 4 --target-modules q_proj,v_proj
    """
    keep_freed_memory()
    from ..ops.create.init import init

    config = replace(config, base_model_name_or_path=base_model)
    with out.progress() as progress:
        report = init(config=config, progress=progress, **given)
    out.report(report, _render)


def _render(report: InitReport) -> Iterator[Block]:
    line = f"{plural(report.modules, 'module')} in {plural(report.groups, 'group')}, "
    line += plural(report.trainable_parameters, "trainable parameter")
    yield from written(report.output, report.bytes_written, report.seconds, line)
