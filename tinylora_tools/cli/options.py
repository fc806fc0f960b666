"""Options that several commands share, and how their values become what operations take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys on stdout.")
base_option: Decorator = click.option(
    "--base",
    metavar="DIR",
    help="The base model: a directory or hf://owner/name. Default: what the adapter's configuration names, if at hand.",
)
module_order_option: Decorator = click.option(
    "--module-order",
    "module_order_file",
    metavar="FILE",
    help="Targeted modules in the order of model.named_modules(), one name a line: for unknown architectures.",
)

stream_option: Decorator = click.option(
    "--stream",
    type=click.Choice(["torch-cpu-avx2", "torch-cpu-scalar", "torch"]),
    default="torch-cpu-avx2",
    show_default=True,
    help="Whose arithmetic P is drawn with: x86-64 with AVX2, without, or this machine's torch.",
)


def located(source: str | None) -> Path | None:
    """A source as a local path; None stays None."""
    from ..sources import locate

    return None if source is None else locate(source)


def module_order(file: str | None) -> tuple[str, ...] | None:
    """The module names in the file that --module-order names."""
    if file is None:
        return None
    from ..ops.numbering import read_module_order
    from ..sources import locate

    return tuple(read_module_order(locate(file)))
