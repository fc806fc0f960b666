"""Whether an adapter's file holds every module that its configuration targets.

PEFT itself writes files that don't: with a second adapter in the model that is called as a part of a module's path is,
such as "0", saving the first drops every key with that part in it, a trained vector's number among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..bases.modules import ModelModules, Module, architecture_for, model_modules
from ..bases.selection import saved_modules, select
from ..errors import MismatchError, TinyLoraError
from ..formats.peft.expressions import SlowExpressionError
from ..wording import argument, call

if TYPE_CHECKING:
    from .load import Adapter


def _fits(adapter: Adapter, model: ModelModules) -> bool:
    """Whether the model has the modules that the file holds, in their shapes: it may be of another base or class."""
    return all(
        (module := model.modules.get(name)) is not None
        and (module.out_features, module.in_features) == (parts.out_features, parts.in_features)
        for name, parts in adapter.modules.items()
    )


def targeted_modules(adapter: Adapter) -> Sequence[Module]:
    """The modules that the configuration targets in the adapter's base, in the model's order.

    Empty where nothing tells: no base is at hand, its architecture isn't known, or the adapter was trained on another
    class of it. Where releases of transformers differ, those of the one count of which the file lacks the fewest.

    Raises
    ------
    SlowExpressionError
        If the configuration's expression takes too long.
    """
    return _model_and_targets(adapter)[1]


def _model_and_targets(adapter: Adapter) -> tuple[ModelModules | None, Sequence[Module]]:
    base, config = adapter.base, adapter.config
    if base is None or not adapter.header.has_config or not base.has_weights:
        return None, ()
    architecture = architecture_for(base, config.task_type)
    if architecture is None:
        return None, ()
    possible: list[tuple[ModelModules | None, Sequence[Module]]] = []
    for release in (None, "4"):  # transformers 5 has other modules for some of the same names
        try:
            model = model_modules(base.checkpoint, architecture, release=release)
            if _fits(adapter, model):
                possible.append((model, select(model, config, base.path).modules))
        except SlowExpressionError:
            raise  # it isn't known what is targeted, and nothing may be missing
        except TinyLoraError:
            continue
    return min(possible, key=lambda found: sum(m.name not in adapter.modules for m in found[1]), default=(None, ()))


def missing_modules(adapter: Adapter) -> list[str]:
    """Modules that the configuration targets in the adapter's base and its file lacks, in the model's order; empty too
    where nothing tells what it targets."""
    return _lacking(adapter)[0]


def missing_parameters(adapter: Adapter) -> list[str]:
    """Parameters that are trained whole (modules_to_save, and the head of a task) and that the file lacks, of those
    that the base has."""
    return _lacking(adapter)[1]


def _lacking(adapter: Adapter) -> tuple[list[str], list[str]]:
    model, targeted = _model_and_targets(adapter)
    if model is None:
        return [], []
    saved = tuple(f"{name}." for name in saved_modules(model, adapter.config))
    whole = [name for name in model.parameters if name.startswith(saved) and name.endswith((".weight", ".bias"))]
    modules = [module.name for module in targeted if module.name not in adapter.modules]
    return modules, [name for name in whole if name not in adapter.header.replaced]


def incomplete(adapter: Adapter) -> MismatchError | None:
    """What to say of an adapter whose file lacks modules; None where none is known to be missing."""
    missing, parameters = _lacking(adapter)
    if not missing:
        return _lost(parameters)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    like = _in_all(missing, adapter.modules)
    called = f", such as {' or '.join(map(repr, like))}" if like else ""
    return MismatchError(
        f"the file lacks {missing[0]}{more}, which its configuration targets in the base: their part of the update "
        "would be lost",
        hint=f"PEFT leaves modules out when another adapter in the model is called like a part of their names{called}. "
        f"What is missing follows from the base and the seed: {call('to_peft', adapter.path, 'WHOLE', complete=True)}, "
        "or PEFT's own loading, computes it. If the base is another than it was trained on, name its own with "
        f"{argument('base')}.",
    )


def _lost(parameters: Sequence[str]) -> MismatchError | None:
    if not parameters:
        return None
    more = f" and {len(parameters) - 1} more" if len(parameters) > 1 else ""
    return MismatchError(
        f"the file lacks {parameters[0]}{more}, which its configuration has trained and saved whole",
        hint="PEFT leaves out what another adapter in the model is called like. Save it again from the process that "
        "trained it, once the other is deleted or has another name. If the base is another than it was trained on, "
        "name its own.",
    )


def _in_all(missing: Iterable[str], held: Iterable[str]) -> list[str]:
    """The parts that all missing names have and no other has."""
    parts = [name.split(".") for name in missing]
    others = {part for name in held for part in name.split(".")}
    return [part for part in parts[0] if all(part in one for one in parts) and part not in others]
