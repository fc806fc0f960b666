"""TinyLoraConfig's fields as options, with PEFT's defaults and PEFT's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

from ..errors import FormatError
from ..formats.peft.config import BIASES, TASK_TYPES, TinyLoraConfig, parse_targets
from .options import FINITE, Decorator, Dtype, all_of, module_order_option

#: PEFT's defaults.
_DEFAULT = TinyLoraConfig()


class Targets(click.ParamType):  # type: ignore[type-arg]
    """target_modules as one text."""

    name = "targets"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | tuple[str, ...]:
        try:
            return value if isinstance(value, tuple) else parse_targets(value)
        except FormatError as error:
            self.fail(error.what, param, ctx)


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
        metavar="TYPE",
        help=f"Which class of the model is adapted: {', '.join(TASK_TYPES)}. Default: the one that the base's "
        "config.json names.",
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
    click.option(
        "--projection-seed", type=int, default=_DEFAULT.projection_seed, show_default=True, help="What P is drawn from."
    ),
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
    click.option(
        "--tinylora-dropout",
        type=FINITE,
        default=_DEFAULT.tinylora_dropout,
        show_default=True,
        help="Of the layers' inputs, in training.",
    ),
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


adapter_dtype_option: Decorator = click.option(
    "--adapter-dtype",
    type=Dtype("auto"),
    default="float32",
    show_default=True,
    help="Of what comes of 16-bit weights; auto is each weight's own, as with PEFT's autocast_adapter_dtype=False.",
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
