"""Options that several commands share, and the types that turn their values into what operations take."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from ..checks import DTYPES, SHORT_DTYPES
from ..errors import FormatError
from ..sources.bars import unseen
from ..sources.locate import checked, expanded
from .output import Output, check_picture
from .screens.forms import FORMS
from .screens.page import Rows
from .screens.picture import ENDINGS
from .screens.terminal import terminal_of

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Source(click.ParamType):  # type: ignore[type-arg]
    """A local path or a repository on the Hub: operations open it."""

    name = "source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return checked(value)
        except FormatError as error:
            self.fail(f"{value} {error.what}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Finite(click.types.FloatParamType):
    """A number that is neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Dtype(click.Choice[str]):
    """A floating-point dtype by PyTorch's name, or as people write it: bf16, fp16, fp32."""

    def __init__(self, *others: str) -> None:
        super().__init__([*others, *DTYPES])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(SHORT_DTYPES.get(value, value), param, ctx)


class Setting(click.ParamType):  # type: ignore[type-arg]
    """NAME=VALUE, as a pair."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, said = value.partition("=")
        if not equals or not name.strip():
            self.fail(f"{value!r}, expected NAME=VALUE.", param, ctx)
        return name.strip().replace("-", "_"), said.strip()


class OutputPath(click.Path):
    """A path to write to, with its ~."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not os.fspath(value):
            self.fail("an empty path names nothing.", param, ctx)
        return expanded(os.fsdecode(super().convert(value, param, ctx)))


class Picture(OutputPath):
    """A picture's file, by its ending."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if path.suffix not in ENDINGS:
            self.fail(f"{value} ends neither in {' nor in '.join(ENDINGS)}.", param, ctx)
        return path


FINITE = Finite()
OUTPUT = OutputPath()
SOURCE = Source()
THREADS = click.IntRange(min=1)


def all_of(*options: Decorator) -> Decorator:
    """Several options as one decorator, in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def numbering_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What no file of an adapter tells of its modules' places and seeds."""
    return all_of(module_order_option, first_adapter_option, seeding_option)(function)


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How a command speaks: --format and --json, --rows, --save and -q; the command gets its `Output` as `out`."""

    @wraps(function)
    def run(*arguments: Any, form: str, as_json: bool, rows: Rows, save: Path | None, quiet: bool, **given: Any) -> Any:
        forced, force = "force" in given, given.get("force", False)
        if save is not None:
            check_picture(save, force=force, forced=forced)
        out = Output("json" if as_json else form, quiet, rows, save, force)
        with unseen(quiet or not terminal_of(sys.stderr).cursor):
            return function(*arguments, out=out, **given)

    return all_of(
        click.option(
            "--format",
            "form",
            type=click.Choice(FORMS),
            default="table",
            show_default=True,
            help="What the report on stdout is: a screen, JSON with stable keys, Markdown, or CSV of its rows.",
        ),
        click.option("--json", "as_json", is_flag=True, help="The same as --format json."),
        click.option(
            "--rows",
            type=click.Choice(get_args(Rows)),
            default="auto",
            show_default=True,
            help="Of long tables: what fits on a terminal (all in a pipe), all rows, or a row a kind of layer.",
        ),
        click.option("--save", type=Picture(), metavar="FILE", help="Draw the report into FILE: .svg or .html."),
        click.option("-q", "--quiet", is_flag=True, help="No progress and no screen; warnings and errors stay."),
    )(run)


def output_option(metavar: str, text: str, *, required: bool = True) -> Decorator:
    """-o, the path of what is written."""
    return click.option("-o", "--output", required=required, type=OUTPUT, metavar=metavar, help=text)


force_option: Decorator = click.option("-f", "--force", is_flag=True, help="Replace an existing output.")


def base_option_with(default: str) -> Decorator:
    """--base, with what counts where it isn't given."""
    text = (
        f"The base model: a directory or hf://owner/name. Default: what the adapter's configuration names, {default}."
    )
    return click.option("--base", type=SOURCE, metavar="DIR", help=text)


base_option: Decorator = base_option_with("if at hand")


def architecture_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--architecture: the model of a description is known while the command runs."""

    @wraps(function)
    def run(*arguments: Any, architecture: str | None, **given: Any) -> Any:
        from ..bases.architectures.families import described_by

        with described_by(architecture):
            return function(*arguments, **given)

    return click.option(
        "--architecture",
        type=SOURCE,
        metavar="FILE",
        help="What `tinylora architecture` wrote of the base's model: for models that the data lack. Or plain: "
        "modules in its numbered layers are taken for mere layers.",
    )(run)


module_order_option: Decorator = all_of(
    architecture_option,
    click.option(
        "--module-order",
        type=SOURCE,
        metavar="FILE",
        help="The model's modules in the order of model.named_modules(), all or the targeted ones, one name a line: "
        "for unknown architectures.",
    ),
)
device_option: Decorator = click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, mps, xpu, ..."
)
threads_option: Decorator = click.option("--threads", type=THREADS, help="Default: what torch chooses.")
first_adapter_option: Decorator = click.option(
    "--first-adapter",
    type=SOURCE,
    metavar="ADAPTER",
    help="Where ADAPTER was added to a model that had another one: that one, or a file with its targeted modules in "
    "the model's order, one name a line; ADAPTER itself, if it was first.",
)
seeding_option: Decorator = click.option(
    "--seeding",
    type=click.Choice(["index", "salted"]),
    help="What P was drawn from, where it isn't stored and PEFT's 0.19.2.dev0 wrote ADAPTER: the module's index from "
    "21 April 2026 on, before that a salted hash, which is lost.",
)
release_option: Decorator = click.option(
    "--transformers",
    "release",
    type=click.Choice(["4", "5"]),
    help="The generation that an adapter of Gemma's or Gemma 2's embeddings was trained under: they scale in 5 only.",
)


def cache_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--no-cache, of commands that compute a packed adapter's factors."""

    @wraps(function)
    def run(*arguments: Any, no_cache: bool, **given: Any) -> Any:
        if not no_cache:
            return function(*arguments, **given)
        from ..bases.kept_factors import without_kept_factors

        with without_kept_factors():
            return function(*arguments, **given)

    return click.option(
        "--no-cache",
        is_flag=True,
        help="Compute a packed adapter's factors even if they are in `tinylora cache`, and don't keep them there.",
    )(run)


stream_option: Decorator = click.option(
    "--stream",
    type=click.Choice(["torch-cpu-avx2", "torch-cpu-scalar", "torch"]),
    default="torch-cpu-avx2",
    show_default=True,
    help="Whose arithmetic a P that isn't stored is drawn with: x86-64 with AVX2, without, or this machine's torch.",
)
scale_option: Decorator = click.option(
    "--scale",
    "scales",
    multiple=True,
    type=FINITE,
    metavar="X",
    help="Factor of an adapter's update: once for all adapters, or once for each.",
)


def several(scales: tuple[float, ...], adapters: Sequence[str]) -> float | tuple[float, ...]:
    """Scales as they were given, where they are as many as may be."""
    if len(scales) not in (0, 1, len(adapters)):
        raise click.UsageError(f"--scale is given {len(scales)} times for {len(adapters)} adapters: once, or for each.")
    return scales or 1.0
