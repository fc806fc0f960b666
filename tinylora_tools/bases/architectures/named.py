"""The architecture that a configuration, a class or a task of PEFT's names; None where it isn't known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import MismatchError
from ...wording import call
from . import families
from .architecture import Architecture

#: What the classes that PEFT's task types ask for end in.
_TASK_CLASSES = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration",),
    "SEQ_CLS": ("ForSequenceClassification", "ForImageClassification"),
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": ("ForQuestionAnswering",),
}


def for_task(architecture: Architecture, task_type: str) -> Architecture | None:
    """The same family's class for one of PEFT's task types, such as "SEQ_CLS"; None if it has none, or PEFT hasn't."""
    if task_type == "FEATURE_EXTRACTION":
        return architecture.of_class(architecture.bare)
    endings = _TASK_CLASSES.get(task_type, ())
    if architecture.class_name.endswith(endings):
        return architecture
    name = next((name for ending in endings for name in architecture.classes if name.endswith(ending)), None)
    return architecture.of_class(name) if name else None


def from_config(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture that a config.json names, by its model_type, else by its class, or that a given architecture
    file describes; None if it isn't known, or if an inner model is of a type that its classes weren't built with.

    Raises
    ------
    MismatchError
        If the architecture file is another model's, or lacks the class.
    """
    names = config.get("architectures")
    class_name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    model_type = config.get("model_type")
    if (described := families.given()) is not None:
        return _described(described, model_type, class_name, config)
    data = families.family(model_type) if isinstance(model_type, str) else None
    if data is None:
        known = families.family_of_class(class_name) if class_name else None
        data = families.family(known) if known else None
    if data is None or not _same_inside(config, data):
        return None
    return Architecture(data, class_name, config)


def _described(
    data: Mapping[str, Any], model_type: Any, class_name: str, config: Mapping[str, Any] | None
) -> Architecture:
    """What an architecture file says of a model; of one that names no class, the one that it was made of."""
    if isinstance(model_type, str) and model_type != data["family"]:
        raise MismatchError(
            f"the architecture file describes a model of type {data['family']!r}, config.json says {model_type!r}",
            hint=f"Make one of the base itself with {call('architecture', 'BASE', 'FILE')}.",
        )
    found = Architecture(data, class_name, config)
    if class_name and class_name not in found.classes:
        raise MismatchError(
            f"the architecture file describes {', '.join(found.classes)} of {data['family']}, and the model is said to "
            f"be a {class_name}",
            hint=f"Make one of the base itself with {call('architecture', 'BASE', 'FILE')}.",
        )
    return found if class_name else found.of_class(found.classes[0])


def _same_inside(config: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    expected: Mapping[str, Any] = next(iter(data["releases"].values())).get("inner", {})
    for path, types in expected.items():
        value: Any = config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value not in types:
            return False
    return True


def from_class_name(name: str) -> Architecture | None:
    """The architecture of a transformers class, such as "Qwen2ForCausalLM"; None if it isn't known. Of a configuration
    nothing is known.

    Raises
    ------
    MismatchError
        If the architecture file that is given lacks the class.
    """
    if (described := families.given()) is not None:
        return _described(described, None, name, None)
    known = families.family_of_class(name)
    data = families.family(known) if known else None
    return Architecture(data, name, None) if data else None
