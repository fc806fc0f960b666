"""Options that several commands share, and the types that turn their values into what operations take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..checks import DTYPES, SHORT_DTYPES
from ..errors import FormatError
from ..formats.peft_config import BIASES, TASK_TYPES, TinyLoraConfig, parse_targets
from ..sources.locate import checked
from .output import Output

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


#: PEFT's defaults.
_DEFAULT = TinyLoraConfig()


class Source(click.ParamType):  # type: ignore[type-arg]
    """A local path or a repository on the Hub: operations open it."""

    name = "source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return checked(value)
        except FormatError as error:
            self.fail(f"{value} {error.what}", param, ctx)


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


class Listed(click.ParamType):  # type: ignore[type-arg]
    """Values with commas between them, as a tuple."""

    def __init__(self, kind: Callable[[str], Any], expected: str) -> None:
        self.name, self._kind = expected, kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r}, expected {self.name}", param, ctx)


class Targets(click.ParamType):  # type: ignore[type-arg]
    """target_modules as one text."""

    name = "targets"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | tuple[str, ...]:
        try:
            return value if isinstance(value, tuple) else parse_targets(value)
        except FormatError as error:
            self.fail(error.what, param, ctx)


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


FINITE = Finite()
SOURCE = Source()
THREADS = click.IntRange(min=1)


def all_of(*options: Decorator) -> Decorator:
    """Several options as one decorator, in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--json and -q; the command gets its `Output` as `out`."""

    @wraps(function)
    def run(*arguments: Any, as_json: bool, quiet: bool, **given: Any) -> Any:
        return function(*arguments, out=Output(as_json, quiet), **given)

    return all_of(
        click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="No progress and no report; warnings and errors stay."),
    )(run)


def output_option(metavar: str, text: str, *, required: bool = True) -> Decorator:
    """-o, the path of what is written."""
    return click.option(
        "-o", "--output", required=required, type=click.Path(path_type=Path), metavar=metavar, help=text
    )


force_option: Decorator = click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
base_option: Decorator = click.option(
    "--base",
    type=SOURCE,
    metavar="DIR",
    help="The base model: a directory or hf://owner/name. Default: what the adapter's configuration names, if at hand.",
)


def architecture_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--architecture: the model of a description is known while the command runs."""

    @wraps(function)
    def run(*arguments: Any, architecture: Path | None, **given: Any) -> Any:
        from ..bases.families import described_by

        with described_by(architecture):
            return function(*arguments, **given)

    return click.option(
        "--architecture",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="What `tinylora architecture` wrote of the base's model: for models that the data lack.",
    )(run)


module_order_option: Decorator = all_of(
    architecture_option,
    click.option(
        "--module-order",
        type=SOURCE,
        metavar="FILE",
        help="Targeted modules in the order of model.named_modules(), one name a line: for unknown architectures.",
    ),
)
device_option: Decorator = click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, mps, xpu, ..."
)
threads_option: Decorator = click.option("--threads", type=THREADS, help="Default: what torch chooses.")
release_option: Decorator = click.option(
    "--transformers",
    "release",
    type=click.Choice(["4", "5"]),
    help="The generation that an adapter of Gemma's or Gemma 2's embeddings was trained under: they scale in 5 only.",
)
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
rank_option: Decorator = click.option(
    "-r", "--rank", "r", type=int, default=_DEFAULT.r, show_default=True, help="Singular triplets."
)

_TARGET_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--target-modules",
        type=Targets(),
        metavar="TARGETS",
        help="Names or ends of names with commas between them, a regular expression (it holds one of "
        "*+?()[]{}|^$\\), or all-linear. Default: what PEFT targets in this type of model.",
    ),
    click.option(
        "--layers-to-transform",
        type=Listed(int, "layer numbers such as 0,1,2"),
        default=(),
        metavar="N,...",
        help="Only these layers, of targets given by name.",
    ),
    click.option(
        "--layers-pattern",
        type=Listed(str, "names"),
        default=(),
        metavar="NAME,...",
        help="The list that holds the layers, such as layers or h.",
    ),
    click.option(
        "--task-type",
        type=click.Choice(TASK_TYPES, case_sensitive=False),
        help="Which class of the model is adapted. Default: the one that the base's config.json names.",
    ),
    click.option(
        "--modules-to-save",
        type=Listed(str, "names"),
        default=(),
        metavar="NAME,...",
        help="Modules that are trained and saved whole.",
    ),
)

_TRAINING_OPTIONS: tuple[Decorator, ...] = (
    click.option("-u", type=int, default=_DEFAULT.u, show_default=True, help="Trained numbers a group."),
    click.option(
        "--weight-tying",
        type=FINITE,
        default=_DEFAULT.weight_tying,
        show_default=True,
        help="From 0, own vectors, to 1, one.",
    ),
    click.option("--projection-seed", type=int, default=_DEFAULT.projection_seed, show_default=True),
    click.option(
        "--save-projection/--no-save-projection", default=_DEFAULT.save_projection, show_default=True, help="Store P."
    ),
    click.option(
        "--init-v-bound",
        type=FINITE,
        default=_DEFAULT.init_v_bound,
        show_default=True,
        help="Of --init-weights uniform.",
    ),
    click.option("--tinylora-dropout", type=FINITE, default=_DEFAULT.tinylora_dropout, show_default=True),
    click.option(
        "--fan-in-fan-out/--no-fan-in-fan-out",
        default=None,
        help="Whether layers are Conv1D: set by their type, needed where the architecture isn't known.",
    ),
    click.option(
        "--bias",
        type=click.Choice(BIASES),
        default=_DEFAULT.bias,
        show_default=True,
        help="Biases that are trained along.",
    ),
    click.option(
        "--init-weights",
        type=click.Choice(["true", "uniform", "false"]),
        default="true",
        show_default=True,
        help="v: zeros, random within the bound, or (in PEFT) uninitialised.",
    ),
)

_MODEL_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--transformers",
        "release",
        type=click.Choice(["4", "5"]),
        help="The generation of transformers whose module names count. Default: the newest.",
    ),
    module_order_option,
)


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rank, and which modules are meant, by PEFT's rules; the command gets a TinyLoraConfig as `config`."""
    return _config_options(function, (rank_option, *_TARGET_OPTIONS))


def adapter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """TinyLoraConfig's fields, with PEFT's defaults; the command gets it as `config`."""
    return _config_options(function, (rank_option, *_TRAINING_OPTIONS, *_TARGET_OPTIONS))


def _config_options(function: Callable[..., Any], options: Sequence[Decorator]) -> Callable[..., Any]:
    @wraps(function)
    def run(*arguments: Any, **given: Any) -> Any:
        fields = {name: given.pop(name) for name in list(given) if name in TinyLoraConfig.__dataclass_fields__}
        if "init_weights" in fields:
            fields["init_weights"] = {"true": True, "false": False}.get(fields["init_weights"], "uniform")
        return function(*arguments, config=TinyLoraConfig(**fields), **given)

    return all_of(*options, *_MODEL_OPTIONS)(run)


def several(scales: tuple[float, ...], adapters: Sequence[str]) -> float | tuple[float, ...]:
    """Scales as they were given, where they are as many as may be."""
    if len(scales) not in (0, 1, len(adapters)):
        raise click.UsageError(f"--scale is given {len(scales)} times for {len(adapters)} adapters: once, or for each.")
    return scales or 1.0
