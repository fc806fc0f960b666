"""What a model's architecture says of its modules: their order, types, stored names and ties.

PEFT numbers targeted modules in the order of `model.named_modules()`, which no file of an adapter or a base holds.
The data come from transformers itself, through scripts/make_architectures.py, and say from which releases: one of each
generation of names, since transformers 5 fuses experts and renames modules that adapters made under 4 know by their old
names. transformers isn't needed here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ..errors import UndeterminedError
from ..wording import argument

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
#: What the classes that PEFT's task types ask for end in.
_TASK_CLASSES = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel"),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration",),
    "SEQ_CLS": ("ForSequenceClassification", "ForImageClassification"),
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": ("ForQuestionAnswering",),
}

Scaling = Literal["buffer", "number"]

_KINDS = {"L": "Linear", "C": "Conv1D", "E": "Embedding"}


@dataclass(frozen=True, slots=True)
class Tie:
    """Parameters that are one tensor. `stored` is the name that save_pretrained keeps; `optional` says whether
    `tie_word_embeddings: false` in the configuration keeps them apart."""

    members: tuple[str, ...]
    stored: str
    optional: bool


class Generation:
    """A family's modules as one release of transformers has them.

    `kinds` maps each pattern to its type, in named_modules() order; `stored` parameter patterns to those they are saved
    under, where these differ; `inputs` and `outputs` a class to its input and output embedding, if it has one.
    """

    def __init__(self, release: str, data: Mapping[str, Any]) -> None:
        self.release = release
        self.kinds = {leaf[2:]: _KINDS[leaf[0]] for leaf in data["leaves"]}
        self.stored: Mapping[str, str] = data["stored"]
        self.fused = frozenset(data["fused"])
        self.scaled = frozenset(data["scaled"])
        self.scaled_if = frozenset(data["scaled_if"])
        self.inputs: Mapping[str, str] = data["inputs"]
        self.outputs: Mapping[str, str] = data["outputs"]
        self._leaves_of: Mapping[str, str] = data["leaves_of"]
        self._rank: dict[str, int] = {}
        for pattern in self.kinds:  # in depth-first order: so a path's first leaf tells its rank among its siblings
            parts = pattern.split(".")
            for depth in range(1, len(parts) + 1):
                self._rank.setdefault(".".join(parts[:depth]), len(self._rank))

    def __contains__(self, class_name: object) -> bool:
        return class_name in self._leaves_of

    def leaves_of(self, class_name: str) -> frozenset[str]:
        """The patterns of the modules that a class has, in one shape or another."""
        patterns = list(self.kinds)
        found: set[str] = set()
        for part in self._leaves_of[class_name].split():
            first, _, last = part.partition("-")
            found.update(patterns[int(first) : int(last or first) + 1])
        return frozenset(found)

    def sort_key(self, module: str) -> tuple[tuple[int, int], ...]:
        """Each step's rank among its siblings, and its number: `layers.2` comes before `layers.10`."""
        key, path = [], ""
        for part in module.split("."):
            path = f"{path}.{part}" if path else part
            key.append((self._rank[generalised(path)], int(part) if part.isdigit() else 0))
        return tuple(key)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model family, such as "qwen2", and the class that a checkpoint names ("" where it names none).

    `scale_embedding` is what config.json says under that name: None where no configuration is at hand.
    """

    model_type: str
    class_name: str
    base_model_prefix: str
    tied_by_default: bool
    transformers: tuple[str, ...]
    scale_embedding: bool | None
    _generations: tuple[Generation, ...]
    _ties: tuple[Tie, ...]

    def sort_modules(self, modules: Iterable[str]) -> list[str]:
        """Modules in the order of named_modules().

        Raises
        ------
        UndeterminedError
            If no release of transformers knows all of them, or two do and disagree.
        """
        names = list(modules)
        patterns = {generalised(name) for name in names}
        knowing = [generation for generation in self._generations if patterns <= generation.kinds.keys()]
        if not knowing:
            newest = self._generations[0].kinds
            unknown = [name for name in names if generalised(name) not in newest]
            raise UndeterminedError(
                f"transformers' {self.model_type} has no module {unknown[0]}"
                + (f" (nor {len(unknown) - 1} others that the adapter targets)" if len(unknown) > 1 else ""),
                hint=order_hint(),
            )
        orders = [sorted(names, key=generation.sort_key) for generation in knowing]
        for generation, order in zip(knowing[1:], orders[1:], strict=True):
            if order != orders[0]:
                raise UndeterminedError(
                    f"transformers {knowing[0].release} and {generation.release} order these modules of "
                    f"{self.model_type} differently",
                    hint=f"Say with {argument('module_order', ...)} which order the adapter was trained with.",
                )
        return orders[0]

    def generation(self, release: str | None = None) -> Generation:
        """The class's family as a major release of transformers has it ("4" or "5"), or as the newest that knows it.

        Raises
        ------
        UndeterminedError
            If none has such a class, or no class is named.
        """
        for generation in self._generations:
            if self.class_name in generation and generation.release.startswith(release or ""):
                return generation
        what = f"transformers {release or ''}".rstrip() + f" has no class {self.class_name!r} of {self.model_type}"
        if not self.class_name:
            what = f"no class of {self.model_type} is named, which would tell its modules"
        raise UndeterminedError(what, hint="Name the class in the base's config.json, under architectures.")

    def kinds_elsewhere(self, generation: Generation) -> set[str]:
        """Patterns of modules that other releases have, and this one hasn't."""
        return {pattern for other in self._generations for pattern in other.kinds} - generation.kinds.keys()

    @property
    def all_ties(self) -> tuple[Tie, ...]:
        return self._ties

    def kind(self, module: str) -> str | None:
        """ "Linear", "Conv1D" or "Embedding"; None for a module that isn't known to be one."""
        pattern = generalised(module)
        return next((g.kinds[pattern] for g in self._generations if pattern in g.kinds), None)

    def stored_keys(self, parameter: str) -> list[str]:
        """Names that a checkpoint may store a parameter under, the likeliest first: renamed as from_pretrained does,
        with the prefix of the bare model's class added or left out."""
        keys = [key for g in self._generations if (key := _renamed(parameter, g.stored)) is not None]
        keys.append(parameter)
        prefix = f"{self.base_model_prefix}."
        if prefix != ".":
            keys += [key.removeprefix(prefix) if key.startswith(prefix) else prefix + key for key in keys]
        return list(dict.fromkeys(keys))

    def fused(self, parameter: str) -> bool:
        """Whether the parameter is several stored tensors in one, as transformers 5 holds experts."""
        pattern = generalised(parameter)
        return any(pattern in generation.fused for generation in self._generations)

    def scaling(self, module: str, release: str | None = None) -> Scaling | None:
        """What an embedding itself multiplies by sqrt(hidden_size) with, under a major release of transformers ("4" or
        "5") or under each; None where it doesn't: a "buffer" of the weight's dtype, or a "number".

        Raises
        ------
        UndeterminedError
            If that depends on a release, or on a configuration, that isn't known.
        """
        pattern = generalised(module)
        knowing = [g for g in self._generations if pattern in g.kinds and g.release.startswith(release or "")]
        if any(pattern in g.scaled_if for g in knowing):
            if self.scale_embedding is None:
                raise UndeterminedError(
                    f"{module} may be scaled by sqrt(hidden_size), which the base's config.json says",
                    hint=f"Name the base's directory with {argument('base')}.",
                )
            return "number" if self.scale_embedding else None
        found = {pattern in g.scaled for g in knowing}
        if len(found) > 1:
            raise UndeterminedError(
                f"{module} is scaled by sqrt(hidden_size): by itself under transformers 5, where PEFT adds the update "
                "behind that, and by the model under 4, so the update depends on where the adapter was trained",
                hint=f"Say under which with {argument('release', '4')} or {argument('release', '5')}.",
            )
        return "buffer" if found == {True} else None

    def ties(self, parameter: str) -> Tie | None:
        """The group that a parameter, by its name in the model, is tied in."""
        return next((tie for tie in self._ties if parameter in tie.members), None)


def order_hint(which: str = "the targeted modules") -> str:
    """How to give an order that no file tells."""
    return f"Give {which} with {argument('module_order', ...)}, in the order of model.named_modules(), one name a line."


def generalised(name: str) -> str:
    """A name with its numbers replaced by `*`."""
    return _NUMBER.sub("*", name)


def _renamed(parameter: str, stored: Mapping[str, str]) -> str | None:
    pattern = stored.get(generalised(parameter))
    if pattern is None:
        return None
    numbers = iter(_NUMBER.findall(parameter))
    return ".".join(next(numbers) if part == "*" else part for part in pattern.split("."))


def for_task(architecture: Architecture, task_type: str) -> Architecture | None:
    """The same family's class for one of PEFT's task types, such as "SEQ_CLS"; None if it has none, or PEFT hasn't."""
    family = _data()["families"][architecture.model_type]
    if task_type == "FEATURE_EXTRACTION":
        return _architecture(architecture.model_type, family["bare"], architecture.scale_embedding)
    endings = _TASK_CLASSES.get(task_type, ())
    if architecture.class_name.endswith(endings):
        return architecture
    name = next((name for ending in endings for name in family["classes"] if name.endswith(ending)), None)
    return _architecture(architecture.model_type, name, architecture.scale_embedding) if name else None


def known_model_types() -> list[str]:
    """Every `model_type` in the data."""
    return sorted(_data()["families"])


def from_config(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture that a config.json names, by its model_type, else by its class; None if it isn't known."""
    names = config.get("architectures")
    class_name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    model_type = config.get("model_type")
    scale_embedding = bool(config.get("scale_embedding"))
    if isinstance(model_type, str) and model_type in _data()["families"]:
        return _architecture(model_type, class_name, scale_embedding)
    return from_class_name(class_name, scale_embedding)


def from_class_name(name: str, scale_embedding: bool | None = None) -> Architecture | None:
    """The architecture of a transformers class, such as "Qwen2ForCausalLM"; None if it isn't known."""
    for model_type, family in _data()["families"].items():
        if name in family["classes"]:
            return _architecture(model_type, name, scale_embedding)
    return None


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    text = (Path(__file__).parents[1] / "data" / "architectures.json").read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


@lru_cache(maxsize=8)
def _architecture(model_type: str, class_name: str, scale_embedding: bool | None) -> Architecture:
    family = _data()["families"][model_type]
    return Architecture(
        model_type=model_type,
        class_name=class_name,
        base_model_prefix=family["prefix"],
        tied_by_default=family["tied_by_default"],
        transformers=tuple(_data()["transformers"]),
        scale_embedding=scale_embedding,
        _generations=tuple(Generation(release, data) for release, data in family["generations"].items()),
        _ties=_ties_of(family, class_name),
    )


def _ties_of(family: Mapping[str, Any], class_name: str) -> tuple[Tie, ...]:
    """The ties of a class. A bare model, or a class that isn't known, may be meant for any head: the largest group of
    each tensor counts."""
    of_class: Mapping[str, list[dict[str, Any]]] = family["ties"]
    if class_name in family["classes"] and class_name != family["bare"]:
        groups = of_class.get(class_name, [])
    else:
        groups = sorted((g for groups in of_class.values() for g in groups), key=lambda group: -len(group["members"]))
    return tuple(Tie(tuple(g["members"]), g["stored"], g["optional"]) for g in groups)
