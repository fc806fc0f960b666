"""Whether an adapter's file holds every module that its configuration targets.

PEFT itself writes files that don't: with a second adapter in the model that is called as a part of a module's path is,
such as "0", saving the first drops every key with that part in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bases.modules import ModelModules, architecture_for, model_modules
from ..bases.selection import select
from ..errors import TinyLoraError
from ..formats.checkpoint import is_checkpoint

if TYPE_CHECKING:
    from .load import Adapter


def _fits(adapter: Adapter, model: ModelModules) -> bool:
    """Whether the model has the modules that the file holds, in their shapes: it may be of another base or class."""
    return all(
        (module := model.modules.get(name)) is not None
        and (module.out_features, module.in_features) == (parts.out_features, parts.in_features)
        for name, parts in adapter.modules.items()
    )


def missing_modules(adapter: Adapter) -> list[str]:
    """Modules that the configuration targets in the adapter's base and its file lacks, in the model's order.

    Empty too where nothing tells what it targets: no base is at hand, its architecture isn't known, or the adapter was
    trained on another class of it. Where releases of transformers differ, the file may be of either.
    """
    base, config = adapter.base, adapter.config
    if base is None or not adapter.header.has_config or not (base.path.is_file() or is_checkpoint(base.path)):
        return []
    architecture = architecture_for(base, config.task_type)
    if architecture is None:
        return []
    possible = []
    for release in (None, "4"):  # transformers 5 has other modules for some of the same names
        try:
            model = model_modules(base.checkpoint, architecture, release=release)
            if _fits(adapter, model):
                targeted = select(model, config, base.path).modules
                possible.append([module.name for module in targeted if module.name not in adapter.modules])
        except TinyLoraError:
            continue
    return min(possible, key=len, default=[])
