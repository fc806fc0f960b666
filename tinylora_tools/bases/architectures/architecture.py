"""What a model's architecture says of its modules: their order, types, stored names, ties and scales.

PEFT numbers targeted modules in the order of `model.named_modules()`, which no file of an adapter or a base holds.
The data come from transformers itself (see `architectures.families`) and say from which releases: one of each
generation of names, since transformers 5 fuses experts and renames modules that adapters made under 4 know by their old
names. transformers isn't needed here. What no data knows isn't guessed: it is None, or an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from ...errors import UndeterminedError
from ...wording import argument
from . import families
from .described import Described
from .hints import no_modules, release_hint, way_out
from .layout import KINDS, filled, generalised
from .scaling import Scaling, scaling_of
from .ties import Ties
from .whole import require_whole


class Architecture:
    """A model family, such as "qwen2", and the class that a checkpoint names ("" where it names none).

    Parameters
    ----------
    data : mapping
        A family's data, of `architectures.families`.
    class_name : str
    config : mapping, optional
        The base's config.json; None where it isn't at hand, so that what it would say isn't known.

    Its `transformers` are the releases that know the family, newest first.
    """

    def __init__(self, data: Mapping[str, Any], class_name: str, config: Mapping[str, Any] | None) -> None:
        self.model_type: str = data["family"]
        self.class_name = class_name
        self.config = config
        self.transformers = tuple(data["releases"])
        self._data = data
        self._currents: dict[str, str] = {}
        self._held_by: dict[tuple[str, str], tuple[str, list[Described]]] = {}

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

    @property
    def doubtful(self) -> bool:
        """Whether config.json names code that the base brings along, with which the model may be another than
        transformers' own of this family."""
        auto_map = (self.config or {}).get("auto_map")
        own = isinstance(auto_map, Mapping) and any(str(kind).startswith("AutoModel") for kind in auto_map)
        return own and self._data is not families.given()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Every class of the family by name."""
        return tuple(dict.fromkeys(name for release in self._data["releases"].values() for name in release["classes"]))

    @cached_property
    def _named(self) -> tuple[Described, ...]:
        """The named class in each release that has it, newest first."""
        return self._of(self.class_name)

    @cached_property
    def _others(self) -> tuple[Described, ...]:
        names = [name for name in self.classes if name != self.class_name]
        return tuple(one for name in names for one in self._of(name))

    def _of(self, class_name: str) -> tuple[Described, ...]:
        having = ((release, data["classes"]) for release, data in self._data["releases"].items())
        return tuple(Described(r, class_name, classes[class_name]) for r, classes in having if class_name in classes)

    @property
    def _all(self) -> tuple[Described, ...]:
        """All: of the named class first, for a checkpoint may name the bare one, and an adapter be made for a head."""
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
        raise no_modules(self.model_type, [name for name in names if not self._knows(renamed[name])] or names)

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

    def _knows(self, module: str) -> bool:
        return any(one.has(module) for one in self._all)

    def _current(self, module: str) -> str:
        """A module's name in a release that the data know: older ones had some models under the names that their
        checkpoints still have."""
        pattern = self._alike(module)
        if pattern not in self._currents:  # a mixture of experts has many names, and few patterns
            self._currents[pattern] = self._find_current(module)
        found = self._currents[pattern]
        return found if pattern == module else filled(generalised(found), module)

    def _alike(self, module: str) -> str:
        """What modules that are alike but for their numbers have in common; the module's name, where its numbers
        count."""
        return module if self._by_number else generalised(module)

    @cached_property
    def _by_number(self) -> bool:
        return any(one.renaming.by_number for one in self._all)

    def _find_current(self, module: str) -> str:
        for group in (self._named, self._others):
            if any(one.has(module) for one in group):
                return module
            names = (name for one in group for name in one.renaming.parameters(f"{module}.weight"))
            known = (n for name in names if any(one.has(n := name.removesuffix(".weight")) for one in group))
            if (found := next(known, None)) is not None:
                return found
        return module

    def elsewhere(self, here: Described) -> set[str]:
        """Patterns of modules that the class has in other releases, and not in this one."""
        return {pattern for one in self._named for pattern in one.layout.letters} - here.layout.letters.keys()

    def kind(self, module: str) -> str | None:
        """ "Linear", "Conv1D" or "Embedding"; None for a module that isn't known to be one."""
        pattern, having = self._having(module)
        return KINDS[having[0].layout.letters[pattern]] if having else None

    def is_plain(self, module: str, release: str | None = None) -> bool:
        """Whether the module's forward is its kind's, perhaps scaled, and nothing else, under a major release of
        transformers ("4" or "5") or under each.

        Raises
        ------
        UndeterminedError
            If that depends on a release that isn't known, or on what config.json has besides its defaults.
        """
        pattern, having = self._having(module, release)
        found = {one.layout.letters[pattern].isupper() for one in having}
        if len(found) > 1:
            raise UndeterminedError(
                f"{module} does more than its kind under one release of transformers, so that PEFT's update has no "
                "effect there that a weight could have, and not under another",
                hint=release_hint(),
            )
        for one in having:
            require_whole(module, one.whole_where.get(pattern), self.config)
        return found != {False}

    def _having(self, module: str, release: str | None = None) -> tuple[str, list[Described]]:
        """A module's pattern, and the classes that have it, in each release: the named one where that does."""
        key = self._alike(module), release or ""
        if key not in self._held_by:
            pattern = generalised(self._current(module))
            found: list[Described] = []
            for group in (self._named, self._others):
                found = found or [one for one in group if one.release.startswith(key[1]) and pattern in one.layout]
            self._held_by[key] = pattern, found
        return self._held_by[key]

    def stored_keys(self, parameter: str) -> Iterator[str]:
        """Names that a checkpoint may store a parameter under, the likeliest first: renamed as from_pretrained does,
        with the prefix of the bare model's class added or left out. One at a time, as the first is mostly the one."""
        module, _, last = parameter.rpartition(".")
        current = f"{self._current(module)}.{last}" if module else parameter
        told: set[str] = set()
        for key in chain.from_iterable(one.stored_keys(current) for one in self._all):
            if key not in told:
                told.add(key)
                yield key
        if parameter not in told:
            yield parameter

    def fused(self, parameter: str) -> bool:
        """Whether no single tensor is stored for a parameter: transformers 5 holds experts in one, for example."""
        pattern = generalised(parameter)
        return any(pattern in one.fused for one in self._all)

    @property
    def fuses_experts(self) -> bool:
        """Whether some release holds a layer's experts in one parameter."""
        return any(pattern.endswith(".experts.gate_up_proj") for one in self._all for pattern in one.fused)

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
        scales = [one.scales.get(generalised(module)) for one in knowing]
        found = {None if scale is None else scaling_of(scale, self.config, module, width) for scale in scales}
        if len(found) > 1:
            raise UndeterminedError(
                f"{module} is scaled by itself under one release of transformers, where PEFT adds the update behind "
                "that, and by the model under another, so the update depends on where the adapter was trained",
                hint=release_hint(),
            )
        return found.pop() if found else None

    @cached_property
    def ties(self) -> Ties:
        """The ties of the class; of a bare model, or one that isn't known, those of any head."""
        classes = [self._named] if self._named and self.class_name != self.bare else map(self._of, self.classes)
        return Ties(tuple(classes), self.config, self.text, fitted=self._data is families.given())

    def in_float32(self, parameter: str, dtype: str, release: str | None = None) -> bool:
        """Whether transformers loads a parameter in float32 though it is stored in a 16-bit dtype ("bfloat16" or
        "float16"), as it does with some that lose too much there."""
        knowing = [one for one in self._all if one.may_have(parameter) and one.release.startswith(release or "")]
        return bool(knowing) and knowing[0].in_float32(parameter, dtype)
