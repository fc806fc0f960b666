"""What a model's architecture says of its modules: their order, types, stored names, ties and scales.

PEFT numbers targeted modules in the order of `model.named_modules()`, which no file of an adapter or a base holds.
The data come from transformers itself (see `bases.families`) and say from which releases: one of each generation of
names, since transformers 5 fuses experts and renames modules that adapters made under 4 know by their old names.
transformers isn't needed here. What no data knows isn't guessed: it is None, or an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..errors import MismatchError, UndeterminedError
from ..wording import argument, call
from . import families
from .described import Described
from .layout import KINDS, generalised
from .ties import Tie, agreed, state_of

#: What the classes that PEFT's task types ask for end in.
_TASK_CLASSES = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration",),
    "SEQ_CLS": ("ForSequenceClassification", "ForImageClassification"),
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": ("ForQuestionAnswering",),
}


@dataclass(frozen=True, slots=True)
class Scaling:
    """What an embedding itself multiplies what it looks up by: `factor`, held as a "buffer" of the weight's dtype or as
    a "number"."""

    held: Literal["buffer", "number"]
    factor: float


class Architecture:
    """A model family, such as "qwen2", and the class that a checkpoint names ("" where it names none).

    Parameters
    ----------
    data : mapping
        A family's data, of `bases.families`.
    class_name : str
    config : mapping, optional
        The base's config.json; None where it isn't at hand, so that what it would say isn't known.

    Attributes
    ----------
    model_type, class_name : str
    transformers : tuple of str
        The releases that know the family, newest first.
    """

    def __init__(self, data: Mapping[str, Any], class_name: str, config: Mapping[str, Any] | None) -> None:
        self.model_type: str = data["family"]
        self.class_name = class_name
        self.config = config
        self.transformers = tuple(data["releases"])
        self._data = data

    def __repr__(self) -> str:
        return f"<{self.class_name or self.model_type} of transformers {' and '.join(self.transformers)}>"

    def of_class(self, class_name: str) -> Architecture:
        """The same family and configuration with another class."""
        return Architecture(self._data, class_name, self.config)

    @property
    def bare(self) -> str:
        """The class without a head."""
        return str(self._data["releases"][self.transformers[0]]["bare"])

    @property
    def text(self) -> str:
        """Where the configuration has that of the text model; "" where it has none of its own."""
        return str(self._data["releases"][self.transformers[0]].get("text", ""))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Every class of the family by name."""
        return tuple(dict.fromkeys(name for release in self._data["releases"].values() for name in release["classes"]))

    @cached_property
    def _named(self) -> tuple[Described, ...]:
        """The named class in each release that has it, newest first."""
        return tuple(self._descriptions(self.class_name))

    @cached_property
    def _others(self) -> tuple[Described, ...]:
        names = [name for name in self.classes if name != self.class_name]
        return tuple(one for name in names for one in self._descriptions(name))

    def _descriptions(self, class_name: str) -> Iterator[Described]:
        for release, data in self._data["releases"].items():
            if class_name in data["classes"]:
                yield Described(release, class_name, data["classes"][class_name])

    @property
    def _all(self) -> tuple[Described, ...]:
        """All descriptions: of the named class first, since a checkpoint may name the bare class, and an adapter be
        made for one with a head."""
        return (*self._named, *self._others)

    def described(self, release: str | None = None) -> Described:
        """The class as a major release of transformers has it ("4" or "5"), or as the newest that knows it.

        Raises
        ------
        UndeterminedError
            If none has such a class, or no class is named.
        """
        for one in self._named:
            if one.release.startswith(release or ""):
                return one
        what = f"transformers {release or ''}".rstrip() + f" has no class {self.class_name!r} of {self.model_type}"
        if not self.class_name:
            what = f"no class of {self.model_type} is named, which would tell its modules"
        raise UndeterminedError(
            what, hint=f"Name the class in the base's config.json, under architectures. {way_out()}"
        )

    def sort_modules(self, modules: Iterable[str]) -> list[str]:
        """Modules in the order of named_modules().

        Raises
        ------
        UndeterminedError
            If no release of transformers knows all of them, or two do and disagree.
        """
        names = list(modules)
        renamed = {name: self._current(name) for name in names}
        patterns = {generalised(name) for name in renamed.values()}
        for group in (self._named, self._others):
            knowing = [one for one in group if patterns <= one.layout.letters.keys()]
            orders = [sorted(names, key=lambda name: one.layout.sort_key(renamed[name])) for one in knowing]
            if orders:
                self._require_one(knowing, orders)
                return orders[0]
        raise self._unknown([name for name in names if not self._knows(renamed[name])] or names)

    def _require_one(self, knowing: Sequence[Described], orders: Sequence[list[str]]) -> None:
        for one, order in zip(knowing[1:], orders[1:], strict=True):
            if order != orders[0]:
                first = f"transformers {knowing[0].release} and {one.release}"
                if one.release == knowing[0].release:
                    first = f"{knowing[0].name} and {one.name} of transformers {one.release}"
                raise UndeterminedError(
                    f"{first} order these modules of {self.model_type} differently",
                    hint=f"Say with {argument('module_order', ...)} which order the adapter was trained with.",
                )

    def _unknown(self, unknown: Sequence[str]) -> UndeterminedError:
        return UndeterminedError(
            f"transformers' {self.model_type} has no module {unknown[0]}"
            + (f" (nor {len(unknown) - 1} others that the adapter targets)" if len(unknown) > 1 else ""),
            hint=order_hint(),
        )

    def _knows(self, module: str) -> bool:
        return any(one.has(module) for one in self._all)

    def _current(self, module: str) -> str:
        """A module's name in a release that the data know: older ones had some models under the names that their
        checkpoints still have."""
        if self._knows(module):
            return module
        names = (name for one in self._all for name in one.renaming.parameters(f"{module}.weight"))
        return next((n for name in names if self._knows(n := name.removesuffix(".weight"))), module)

    def elsewhere(self, here: Described) -> set[str]:
        """Patterns of modules that the class has in other releases, and not in this one."""
        return {pattern for one in self._named for pattern in one.layout.letters} - here.layout.letters.keys()

    def kind(self, module: str) -> str | None:
        """ "Linear", "Conv1D" or "Embedding"; None for a module that isn't known to be one."""
        letter = self._letter(module)
        return KINDS[letter] if letter else None

    def is_plain(self, module: str) -> bool:
        """Whether the module's forward is its kind's, perhaps scaled, and nothing else."""
        return (self._letter(module) or "L").isupper()

    def _letter(self, module: str) -> str | None:
        pattern = generalised(self._current(module))
        return next((one.layout.letters[pattern] for one in self._all if pattern in one.layout), None)

    def stored_keys(self, parameter: str) -> list[str]:
        """Names that a checkpoint may store a parameter under, the likeliest first: renamed as from_pretrained does,
        with the prefix of the bare model's class added or left out."""
        module, _, last = parameter.rpartition(".")
        current = f"{self._current(module)}.{last}" if module else parameter
        keys = [key for one in self._all for key in one.stored_keys(current)]
        return list(dict.fromkeys([*keys, parameter]))

    def fused(self, parameter: str) -> bool:
        """Whether no single tensor is stored for a parameter: transformers 5 holds experts in one, for example."""
        pattern = generalised(parameter)
        return any(pattern in one.fused for one in self._all)

    def scaling(self, module: str, width: int, release: str | None = None) -> Scaling | None:
        """What an embedding itself multiplies what it looks up by, under a major release of transformers ("4" or "5")
        or under each; None where it doesn't.

        Parameters
        ----------
        module : str
        width : int
            Of the embedding.
        release : str, optional

        Raises
        ------
        UndeterminedError
            If that depends on a release, or on a configuration, that isn't known.
        """
        module = self._current(module)
        knowing = [one for one in self._all if one.has(module) and one.release.startswith(release or "")]
        found = {self._scaling(one.scales.get(generalised(module)), module, width) for one in knowing}
        if len(found) > 1:
            raise UndeterminedError(
                f"{module} is scaled by itself under one release of transformers, where PEFT adds the update behind "
                "that, and by the model under another, so the update depends on where the adapter was trained",
                hint=f"Say under which with {argument('release', '4')} or {argument('release', '5')}.",
            )
        return found.pop() if found else None

    def _scaling(self, scale: Mapping[str, Any] | None, module: str, width: int) -> Scaling | None:
        if scale is None:
            return None
        if "if" in scale and not self._entry(scale["if"], module, scale["default"]):
            return None
        if "value" in scale:
            return Scaling(scale["as"], float(scale["value"]))
        if scale.get("root_of") == "width":
            return Scaling(scale["as"], math.sqrt(width))
        if "root_of" in scale:
            return Scaling(scale["as"], math.sqrt(self._entry(scale["root_of"], module, None)))
        return Scaling(scale["as"], float(self._entry(scale["value_of"], module, None)))

    def _entry(self, path: str, module: str, default: Any) -> Any:
        """An entry of the configuration, such as `text_config.scale_embedding`; the default where it is absent."""
        value: Any = self.config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        value = default if value is None and self.config is not None else value
        if value is None:
            raise UndeterminedError(
                f"{module} may be scaled, which {path} in the base's config.json says",
                hint=f"Name the base's directory with {argument('base')}.",
            )
        return value

    @cached_property
    def all_ties(self) -> tuple[Tie, ...]:
        """The ties of the class. A bare model, or a class that isn't known, may be meant for any head: the largest
        group of each tensor comes first."""
        if self._named and self.class_name != self.bare:
            return self._agreed(self._named)
        of_classes = (self._agreed(tuple(self._descriptions(name))) for name in self.classes)
        return tuple(sorted((tie for ties in of_classes for tie in ties), key=lambda tie: -len(tie.members)))

    def _agreed(self, descriptions: Sequence[Described]) -> tuple[Tie, ...]:
        config = self.config or {}
        texts = {release: data.get("text", "") for release, data in self._data["releases"].items()}
        return agreed([(state_of(config, texts[one.release]), one.ties) for one in descriptions])

    def ties(self, parameter: str) -> Tie | None:
        """The group that a parameter, by its name in the model, is tied in: one that holds, if there is one."""
        having = [tie for tie in self.all_ties if parameter in tie.members]
        holding = (tie for tie in having if tie.holds is not False)
        return next(holding, having[0] if having else None)

    def in_float32(self, parameter: str, dtype: str, release: str | None = None) -> bool:
        """Whether transformers loads a parameter in float32 though it is stored in a 16-bit dtype ("bfloat16" or
        "float16"), as it does with some that lose too much there."""
        knowing = [one for one in self._all if one.may_have(parameter) and one.release.startswith(release or "")]
        return bool(knowing) and knowing[0].in_float32(parameter, dtype)


def way_out() -> str:
    """How to go on where the data don't know a model."""
    return (
        f"Where the installed transformers knows the model, describe it with {call('architecture', 'BASE', 'FILE')} "
        f"and use {call('described_by', 'FILE')}."
    )


def order_hint(which: str = "the model's modules, all or the targeted ones,") -> str:
    """How to give an order that no file tells."""
    return (
        f"{way_out()} Or give {which} with {argument('module_order', ...)}, in the order of model.named_modules(), one "
        "name a line."
    )


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
        If the architecture file is another model's.
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
    """What an architecture file says of a model."""
    if isinstance(model_type, str) and model_type != data["family"]:
        raise MismatchError(
            f"the architecture file describes a model of type {data['family']!r}, config.json says {model_type!r}",
            hint=f"Make one of the base itself with {call('architecture', 'BASE', 'FILE')}.",
        )
    found = Architecture(data, class_name, config)
    return found if class_name in found.classes else found.of_class(found.classes[0])


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
    nothing is known."""
    if (described := families.given()) is not None:
        return _described(described, None, name, None)
    known = families.family_of_class(name)
    data = families.family(known) if known else None
    return Architecture(data, name, None) if data else None


known_model_types = families.known_model_types
