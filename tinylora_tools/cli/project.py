"""`tinylora project`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import base_option, json_option, located, module_order, module_order_option, stream_option
from .output import plural, print_json, printable


@click.command("project")
@click.argument("adapter", required=False, metavar="[ADAPTER]")
@click.option("--seed", type=int, help="The projection seed: P.i is drawn from seed + i.")
@click.option("-u", "--proj-dim", "u", type=int, help="Length of the trained vector.")
@click.option("-r", "--rank", "r", type=int, help="Rank of the factors.")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many modules.")
@stream_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="What P is rounded to: the dtype of the weights that the adapter was trained on.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="A .safetensors file, or a directory."
)
@click.option("--digest", is_flag=True, help="Print the sha256 of each P (little-endian bytes).")
@base_option
@module_order_option
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@json_option
def command(
    adapter: str | None,
    seed: int | None,
    u: int | None,
    r: int | None,
    count: int,
    stream: str,
    dtype: str,
    output: Path | None,
    digest: bool,
    base: str | None,
    module_order_file: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Draw the projections P from a seed, bit for bit as PyTorch does.

    With ADAPTER and -o, writes the same adapter with its P in the file (save_projection true), so that PEFT loads the
    same P on every machine.

    \b
    Examples:
      tinylora project --seed 42 -u 13 -r 2 --count 196 --digest
      tinylora project --seed 42 -u 13 -r 2 --count 196 --dtype bfloat16 -o P.safetensors
      tinylora project adapter -o adapter-with-projections
    """
    from ..ops.project import project_adapter, project_seeds

    if adapter is not None:
        if output is None or seed is not None or u is not None or r is not None:
            raise click.UsageError("With ADAPTER, give -o OUT, and neither --seed, -u nor -r: the adapter has them.")
        from ..adapters.load import config_of_base
        from ..adapters.source import keep_apart_from_base
        from ..output.staging import keep_apart
        from ..sources.locate import locate

        source, base_path = locate(adapter), located(base)
        keep_apart(output, [base_path] if base_path is not None else [])
        keep_apart_from_base(output, source)
        report = project_adapter(
            source,
            output,
            base_config=config_of_base(base_path),
            module_order=module_order(module_order_file),
            stream=stream,
            force=force,
        )
    else:
        if seed is None or u is None or r is None:
            raise click.UsageError("Give --seed, -u and -r, or an adapter.")
        if output is None and not digest and not as_json:
            raise click.UsageError("Say what to do with P: -o FILE, --digest or --json.")
        report = project_seeds(seed, u, r, count, stream=stream, dtype=dtype, output=output, force=force)
    if as_json:
        print_json(report)
        return
    if digest:
        for tensor in report.tensors:
            click.echo(f"{tensor.sha256}  {printable(tensor.name)}")
    if report.output:
        click.echo(
            f"Wrote {printable(report.output)}: {plural(len(report.tensors), 'projection')} drawn, {report.stream}",
            err=digest,
        )
