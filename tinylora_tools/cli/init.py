"""`tinylora init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import adapter_options, json_option, module_order, settings_of, stream_option
from .output import plural, print_json, print_warnings, printable, size


@click.command("init")
@click.argument("base", metavar="BASE")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT", help="Directory to make."
)
@adapter_options
@click.option(
    "--init-seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of --init-weights uniform; recorded."
)
@click.option("--base-model", metavar="NAME", help="What adapter_config.json names as the base. Default: BASE's path.")
@stream_option
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, ...")
@click.option("-f", "--force", is_flag=True, help="Replace an existing adapter.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; warnings and errors stay.")
def command(
    base: str,
    output: Path,
    init_seed: int,
    base_model: str | None,
    stream: str,
    device: str,
    release: str | None,
    module_order_file: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Make a new adapter of BASE in PEFT's format, from the checkpoint's files alone.

    The options are TinyLoraConfig's fields, with PEFT's defaults and PEFT's matching of modules. Load it with
    PeftModel.from_pretrained(model, OUT, is_trainable=True) to train it.

    \b
    Examples:
      tinylora init models/Qwen2.5-0.5B -o adapter -u 13 --weight-tying 1 --target-modules all-linear
      tinylora init models/Qwen2.5-0.5B -o adapter -r 4 --target-modules q_proj,v_proj --task-type CAUSAL_LM
    """
    from .process import keep_freed_memory

    keep_freed_memory()
    from ..ops.create.init import init
    from ..sources.locate import HUB_PREFIX, locate

    if base_model is None and base.startswith(HUB_PREFIX):
        base_model = base.removeprefix(HUB_PREFIX).partition("@")[0]
    options: dict[str, Any] = {
        "init_seed": init_seed,
        "stream": stream,
        "device": device,
        "release": release,
        "module_order": module_order(module_order_file),
        "base_model": base_model,
        "force": force,
    }
    settings = settings_of(given)
    if quiet or not sys.stderr.isatty():
        report = init(locate(base), output, settings, **options)
    else:
        from .progress import byte_progress

        with byte_progress("Factoring") as progress:
            report = init(locate(base), output, settings, **options, progress=progress)
    print_warnings(report.warnings)
    if as_json:
        print_json(report)
    elif not quiet:
        click.echo(f"Wrote {printable(report.output)}: {size(report.bytes_written)} in {report.seconds:.2f} s")
        click.echo(
            f"  {plural(report.modules, 'module')} in {plural(report.groups, 'group')}, "
            f"{plural(report.trainable_parameters, 'trainable parameter')}"
        )
