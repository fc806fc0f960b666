"""The classes of transformers that a configuration is for."""

from __future__ import annotations

from typing import Any


def classes_of(family: str, config_class: type) -> dict[str, Any]:
    """Every model class of a family by name, the bare one first. A class that is another family's is left to that,
    unless this family has none of its own and is loaded into the other's."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    names: dict[str, None] = {}
    mappings = {name: value for name, value in vars(auto).items() if name.endswith("_MAPPING_NAMES")}
    for mapping in ("MODEL_MAPPING_NAMES", *sorted(mappings.keys() - {"CONFIG_MAPPING_NAMES"})):
        found = mappings[mapping].get(family, ())
        names |= dict.fromkeys([found] if isinstance(found, str) else found)
    models: dict[str, Any] = {name: one for name in names if _is_model(one := getattr(transformers, name, None))}
    return {name: one for name, one in models.items() if issubclass(config_class, one.config_class)} or models


def _is_model(model_class: Any) -> bool:
    try:
        return isinstance(model_class.config_class, type)
    except (AttributeError, ImportError):  # a configuration in a mapping of models; or a class that lacks its packages
        return False
