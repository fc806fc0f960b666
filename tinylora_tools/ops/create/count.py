"""How many numbers an adapter of a base would train and store; no tensor is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...adapters.load import ModuleOrder, order_in
from ...bases.base import Base, open_base
from ...checks import at_least, dtype_named
from ...core.tying import group_count
from ...formats.peft.config import TinyLoraConfig
from .plan import Plan, model_for, plan_adapter

#: Bytes of a number by dtype, for what v takes in each.
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class ModuleCount:
    """One targeted module: its place, its group, and its weight as (out, in)."""

    name: str
    index: int
    group: int
    kind: str
    rank: int
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class GroupCount:
    """One trained vector and the modules that share it."""

    group: int
    parameters: int
    modules: list[str]


@dataclass(frozen=True, slots=True)
class Setting:
    """A choice of u and weight_tying, with what it trains."""

    u: int
    weight_tying: float
    groups: int
    trainable_parameters: int


@dataclass(frozen=True, slots=True)
class CountReport:
    """All that `tinylora count` says. `trainable_*` count the vectors v alone; what else would be trained and stored
    (biases, modules_to_save) stands apart, as do embeddings that PEFT stores whole without training them."""

    base: str
    architecture: str | None
    target_modules: str | list[str]
    trainable_parameters: int
    trainable_bytes: int
    trainable_bytes_by_dtype: dict[str, int]
    bias_parameters: int
    modules_to_save_parameters: int
    embedding_parameters: int
    stored_parameters: int
    stored_bytes: int
    stored_bytes_with_projection: int
    stored_bytes_without_projection: int
    modules: list[ModuleCount]
    groups: list[GroupCount]
    budget: int | None
    settings: list[Setting]
    warnings: list[str]


def count(
    base: str | Path | Base,
    config: TinyLoraConfig | None = None,
    *,
    budget: int | None = None,
    release: str | None = None,
    module_order: ModuleOrder = None,
    adapter_dtype: str = "float32",
) -> CountReport:
    """Count what an adapter would train and store, from the checkpoint's headers.

    Parameters
    ----------
    base : path
    config : TinyLoraConfig, optional
        PEFT's defaults, where it is None.
    budget : int, optional
        Also list the settings that train at most so many parameters with these targets.
    release : "4" or "5", optional
        The generation of transformers whose module names count; the newest by default.
    module_order : sequence of str, or the path of a file, optional
        Modules in the order of named_modules(), all or at least the targeted ones, where no architecture tells it.
    adapter_dtype : "float32", "auto", "bfloat16" or "float16"
        Of what comes of 16-bit weights: "auto" is their own, as with PEFT's autocast_adapter_dtype=False.

    Raises
    ------
    TinyLoraError
        For a base, settings or targets that don't do.
    """
    at_least("budget", budget, 1)
    adapter_dtype = dtype_named("adapter_dtype", adapter_dtype, "auto")
    at, config = open_base(base, afar=True), config or TinyLoraConfig()
    model = model_for(at, config, release=release, module_order=order_in(module_order))
    plan = plan_adapter(at, model, config, adapter_dtype)
    trainable = _parameters(plan, "v")
    kept = plan.kept(projection=config.save_projection)
    return CountReport(
        base=at.source,
        architecture=model.architecture.class_name if model.architecture else None,
        target_modules=_as_list(plan.selection.target_modules),
        trainable_parameters=trainable,
        trainable_bytes=sum(t.nbytes for t in plan.tensors if t.part == "v"),
        trainable_bytes_by_dtype={name: trainable * width for name, width in _WIDTHS.items()},
        bias_parameters=_parameters(plan, "bias"),
        modules_to_save_parameters=_parameters(plan, "saved"),
        embedding_parameters=_parameters(plan, "embedding"),
        stored_parameters=sum(t.parameters for t in kept),
        stored_bytes=plan.file_bytes(projection=config.save_projection),
        stored_bytes_with_projection=plan.file_bytes(projection=True),
        stored_bytes_without_projection=plan.file_bytes(projection=False),
        modules=[
            ModuleCount(
                name=m.name,
                index=i,
                group=plan.group[m.name],
                kind=m.kind,
                rank=m.rank(config.r),
                in_features=m.in_features,
                out_features=m.out_features,
            )
            for i, m in enumerate(plan.selection.modules)
        ],
        groups=_groups(plan),
        budget=budget,
        settings=[] if budget is None else within_budget(len(plan.selection.modules), budget),
        warnings=list(plan.warnings),
    )


def _parameters(plan: Plan, part: str) -> int:
    """Those of one kind; a bias that two modules share is one, though the file holds it under both names."""
    return sum({t.source if part == "bias" else t.key: t.parameters for t in plan.tensors if t.part == part}.values())


def _as_list(wanted: str | tuple[str, ...]) -> str | list[str]:
    return wanted if isinstance(wanted, str) else sorted(wanted)


def _groups(plan: Plan) -> list[GroupCount]:
    members: dict[int, list[str]] = {}
    for name, group in plan.group.items():
        members.setdefault(group, []).append(name)
    return [GroupCount(group, plan.config.u, names) for group, names in sorted(members.items())]


def within_budget(modules: int, budget: int) -> list[Setting]:
    """For each number of groups that fits, the largest u: those that train most come first.

    `weight_tying` is the shortest decimal that gives the number of groups.
    """
    found = []
    for groups in range(1, min(modules, budget) + 1):
        u = budget // groups
        tying = _tying_for(modules, groups)
        if tying is not None:
            found.append(Setting(u, tying, groups, u * groups))
    return sorted(found, key=lambda s: (-s.trainable_parameters, s.groups))


def _tying_for(modules: int, groups: int) -> float | None:
    """The shortest decimal in 0 to 1 that ties so many modules into so many groups."""
    exact = 1.0 if groups == 1 else 1.0 - groups / modules
    for digits in range(1, 10):
        tying = round(exact, digits)
        if group_count(modules, tying) == groups:
            return tying
    return None
