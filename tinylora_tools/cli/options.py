"""Options that several commands share, and how their values become what operations take."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..bases.selection import Targets
    from ..ops.create.plan import Settings

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


class _Finite(click.types.FloatParamType):
    """A number that is neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


FINITE = _Finite()

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
    help="Whose arithmetic P is drawn with: x86-64 with AVX2, without, or this machine's torch.",
)


def located(source: str | None) -> Path | None:
    """A source as a local path; None stays None."""
    from ..sources.locate import locate

    return None if source is None else locate(source)


def module_order(file: str | None) -> tuple[str, ...] | None:
    """The module names in the file that --module-order names."""
    if file is None:
        return None
    from ..adapters.numbering import read_module_order
    from ..sources.locate import locate

    return tuple(read_module_order(locate(file)))


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which modules are meant, by PEFT's rules."""
    for option in reversed(_TARGET_OPTIONS):
        function = option(function)
    return function


_TARGET_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--target-modules",
        metavar="TARGETS",
        help="Names or ends of names with commas between them, a regular expression (it holds one of "
        "*+?()[]{}|^$\\), or all-linear. Default: what PEFT targets in this type of model.",
    ),
    click.option("--layers-to-transform", metavar="N,...", help="Only these layers, of targets given by name."),
    click.option("--layers-pattern", metavar="NAME,...", help="The list that holds the layers, such as layers or h."),
    click.option(
        "--task-type",
        type=click.Choice(
            ["CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"],
            case_sensitive=False,
        ),
        help="Which class of the model is adapted. Default: the one that the base's config.json names.",
    ),
    click.option("--modules-to-save", metavar="NAME,...", help="Modules that are trained and saved whole."),
    click.option(
        "--transformers",
        "release",
        type=click.Choice(["4", "5"]),
        help="The generation of transformers whose module names count. Default: the newest.",
    ),
    module_order_option,
)


def adapter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """TinyLoraConfig's fields, with PEFT's defaults."""
    for option in reversed((*_ADAPTER_OPTIONS, *_TARGET_OPTIONS)):
        function = option(function)
    return function


rank_option: Decorator = click.option("-r", "rank", type=int, default=2, show_default=True, help="Singular triplets.")

_ADAPTER_OPTIONS: tuple[Decorator, ...] = (
    rank_option,
    click.option("-u", "proj_dim", type=int, default=64, show_default=True, help="Trained numbers a group."),
    click.option("--weight-tying", type=float, default=0.0, show_default=True, help="From 0, own vectors, to 1, one."),
    click.option("--projection-seed", type=int, default=42, show_default=True),
    click.option("--save-projection/--no-save-projection", default=True, show_default=True, help="Store P."),
    click.option("--init-v-bound", type=FINITE, default=0.02, show_default=True, help="Of --init-weights uniform."),
    click.option("--tinylora-dropout", "dropout", type=float, default=0.0, show_default=True),
    click.option(
        "--fan-in-fan-out/--no-fan-in-fan-out", default=None, help="Set by the layers' type; here for completeness."
    ),
    click.option(
        "--bias", type=click.Choice(["none", "all", "tinylora_only"]), default="none", show_default=True,
        help="Biases that are trained along.",
    ),
    click.option(
        "--init-weights", type=click.Choice(["true", "uniform", "false"]), default="true", show_default=True,
        help="v: zeros, random within the bound, or (in PEFT) uninitialised.",
    ),
)  # fmt: skip


def names(text: str | None) -> tuple[str, ...]:
    """A comma list as a tuple, without empty parts."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def targets_of(given: dict[str, Any]) -> Targets:
    """The targets that `target_options` were given; takes its values out of `given`."""
    from ..bases.selection import Targets, parse_targets
    from ..errors import FormatError

    text, layers = given.pop("target_modules"), given.pop("layers_to_transform")
    task = given.pop("task_type")
    try:
        numbers = tuple(int(part) for part in names(layers))
    except ValueError:
        raise FormatError(f"--layers-to-transform is {layers!r}, expected layer numbers such as 0,1,2") from None
    return Targets(
        modules=None if text is None else parse_targets(text),
        modules_to_save=names(given.pop("modules_to_save")),
        layers_to_transform=numbers,
        layers_pattern=names(given.pop("layers_pattern")),
        task_type=task.upper() if task else None,
    )


def settings_of(given: dict[str, Any]) -> Settings:
    """The settings that `adapter_options` were given; takes their values out of `given`."""
    from ..ops.create.plan import Settings

    weights = {"true": True, "false": False}
    init = given.pop("init_weights")
    own = ("rank", "proj_dim", "weight_tying", "projection_seed", "save_projection", "init_v_bound", "dropout")
    return Settings(
        targets=targets_of(given),
        init_weights=weights.get(init, init),
        fan_in_fan_out=given.pop("fan_in_fan_out"),
        bias=given.pop("bias"),
        **{name: given.pop(name) for name in own},
    )
