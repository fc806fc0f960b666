"""The classes of transformers that a configuration is for."""

from __future__ import annotations

from typing import Any


def classes_of(family: str, config_class: type) -> dict[str, Any]:
    """Every model class of a family by name, the bare one first. A class that is another family's is left to that."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    names: dict[str, None] = {}
    mappings = {name: value for name, value in vars(auto).items() if name.endswith("_MAPPING_NAMES")}
    for mapping in ("MODEL_MAPPING_NAMES", *sorted(mappings)):
        found = mappings[mapping].get(family, ())
        names |= dict.fromkeys([found] if isinstance(found, str) else found)
    return {name: one for name in names if (one := getattr(transformers, name, None)) and _is_for(one, config_class)}


def _is_for(model_class: Any, config_class: type) -> bool:
    """Whether a class is a model's, and for this configuration."""
    try:
        return isinstance(model_class.config_class, type) and issubclass(config_class, model_class.config_class)
    except (AttributeError, ImportError):  # a configuration in a mapping of models; or a class that lacks its packages
        return False
