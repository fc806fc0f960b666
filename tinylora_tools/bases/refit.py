"""A checkpoint as another class of its family has it: the body under that class's names, without the old head.

`from_pretrained` does the same to a base model that is loaded for a new task: it moves the body to where the class has
it, leaves out what the class doesn't have, and initialises at random what the checkpoint lacks. Here what is lacking is
told instead, since what was drawn at random in a training isn't known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UndeterminedError
from ..formats.checkpoint import Checkpoint
from ..formats.peft.config import TASK_TYPES
from ..formats.renamed_file import RenamedFile
from ..formats.tensors import FLOAT_NAMES, TensorInfo
from ..formats.torch_file import TorchFile
from .architectures.architecture import Architecture
from .architectures.described import Described
from .architectures.layout import generalised
from .architectures.named import for_task


@dataclass(frozen=True, slots=True)
class Refit:
    """A checkpoint under a class's names.

    Attributes
    ----------
    checkpoint : Checkpoint
        Its tensors are read from where they were; those that are brought are listed, and can't be read.
    moved : tuple of str
        What stood before the body's names, and what stands there now: "model." and "transformer.", say.
    missing : tuple of str
        Modules of the class that are in neither, by their names in the model, numbers as `*`.
    """

    checkpoint: Checkpoint
    moved: tuple[str, str]
    missing: tuple[str, ...]


def refit(base: Checkpoint, origin: Architecture, target: Architecture, brought: Mapping[str, TensorInfo]) -> Refit:
    """The checkpoint as a class of its family has it, with parameters that come from elsewhere.

    Parameters
    ----------
    base : Checkpoint
    origin : Architecture
        As the base's config.json names it.
    target : Architecture
        Of the same family, with the class that is wanted.
    brought : Mapping[str, TensorInfo]
        By their names in the model. What the base lacks of them, as a base of another class may, gets the dtype of
        most of its values; what it has of a head may be of another shape there.

    Raises
    ------
    UndeterminedError
        If the class isn't known.
    """
    family = _Family(origin, target)
    old = family.prefix_of(base)
    names = {key: new for key in base.shard_of if (new := family.renamed(key, old)) is not None}
    declared = _declared(base, names, family, brought)
    names = {key: new for key, new in names.items() if new not in declared}
    checkpoint = _view(base, target, names, declared)
    missing = family.missing(checkpoint.shard_of, brought)
    return Refit(checkpoint, (old, family.wanted.prefix), missing)


@dataclass(frozen=True, slots=True)
class _Class:
    """One class's leaf modules: its body's by the names that the bare class has for them, behind a prefix; its head's
    by their own."""

    prefix: str
    body: frozenset[str]
    head: frozenset[str]

    @classmethod
    def of(cls, leaves: frozenset[str], bare: frozenset[str]) -> _Class:
        prefixes = ["", *sorted({f"{leaf.partition('.')[0]}." for leaf in leaves})]
        prefix = max(prefixes, key=lambda one: len(_behind(one, leaves) & bare))
        body = _behind(prefix, leaves) & (bare if not prefix else _behind(prefix, leaves))
        return cls(prefix, body, leaves - {prefix + leaf for leaf in body})


class _Family:
    """A family's classes beside each other, as one release of transformers has them: the newest that knows the wanted
    one."""

    def __init__(self, origin: Architecture, target: Architecture) -> None:
        self.target = target
        release = target.described().release
        found = [origin, target, *(for_task(target, task) for task in TASK_TYPES)]
        names = {target.bare, *(one.class_name for one in found if one is not None)}
        self._described = [one for name in names if (one := _in_release(target, name, release)) is not None]
        leaves = {one.name: frozenset(one.layout.letters) for one in self._described}
        self._bare = leaves.get(target.bare, frozenset())
        classes = {name: _Class.of(its, self._bare) for name, its in leaves.items()}
        self.wanted = classes[target.class_name]
        self._classes = list(classes.values())
        self._bodies, self._body = _paths(*(one.body for one in self._classes)), _paths(self.wanted.body)
        self._heads, self._head = _paths(*(one.head for one in self._classes)), _paths(self.wanted.head)
        own = [self._body - _paths(one.body) for one in self._classes if one.body]
        #: Parts of the body that another class does without, by their names in the model.
        self._parts = {
            self.wanted.prefix + path for paths in own for path in paths if path.rpartition(".")[0] not in paths
        }

    def prefix_of(self, base: Checkpoint) -> str:
        """What stands before the body's names in a checkpoint: nothing, in one of the bare class."""
        prefixes = sorted({"", *(one.prefix for one in self._classes)})

        def known(prefix: str) -> int:
            inside = (key.removeprefix(prefix) for key in base.shard_of if key.startswith(prefix))
            return sum(bool(self._modules(path) & self._bare) for path in inside)

        return max(prefixes, key=known)

    def renamed(self, key: str, old: str) -> str | None:
        """A stored tensor's name for the class; None for one that it has no use for."""
        if not key.startswith(old) or (not old and self._is_head(key)):
            return key if self._is_kept(key) else None
        path = key.removeprefix(old)
        return None if self._elsewhere(path, self._bodies - self._body) else self.wanted.prefix + path

    def in_head(self, parameter: str) -> bool:
        """Whether a parameter, by its name in the model, is one of the wanted class's head: of one of its modules, or
        of a norm among those."""
        module = generalised(parameter.rpartition(".")[0])
        return module in self.wanted.head or module.rpartition(".")[0] in self._head

    def may_lack(self, parameter: str) -> bool:
        """Whether a checkpoint of another class may do without the parameter."""
        return self.in_head(parameter) or bool(_paths({generalised(parameter.rpartition(".")[0])}) & self._parts)

    def missing(self, keys: Iterable[str], brought: Iterable[str]) -> tuple[str, ...]:
        """Modules that the class has, and neither the keys nor what is brought: those of its head, and parts of the
        body that another class does without. What each class has is missed by none: a variant of the family lacks it.
        """
        prefix = self.wanted.prefix
        found = {generalised(parameter.rpartition(".")[0]) for parameter in brought}
        for key in keys:
            found |= self._modules(key)
            if key.startswith(prefix):
                found |= {prefix + path for path in self._modules(key.removeprefix(prefix))}
        for tie in self.target.ties.all:
            members = {generalised(member.rpartition(".")[0]) for member in tie.members}
            if members & found:  # which doesn't give the rest of a part
                found |= {member for member in members if not (_paths({member}) - {member}) & self._parts}
        return tuple(sorted({*self._parts, *self.wanted.head} - _paths(found)))

    def _is_kept(self, key: str) -> bool:
        """Whether a head's tensor is one of the wanted head: of a module that it has, or of a norm among those."""
        modules = self._modules(key)
        if modules & frozenset().union(*(one.head for one in self._classes)):
            return bool(modules & self.wanted.head)
        inside = any(self._first(path) & self._first(*self.wanted.head) for path in modules)
        return inside and not self._elsewhere(key, self._heads - self._head)

    def _is_head(self, key: str) -> bool:
        """Whether a tensor of a checkpoint whose body has no prefix is a head's."""
        return any(
            self._first(path) & self._first(*self._heads) and not self._first(path) & self._first(*self._bare)
            for path in self._modules(key)
        )

    def _elsewhere(self, key: str, others: frozenset[str]) -> bool:
        return any(part in others for path in self._modules(key) for part in _paths({path}))

    def _modules(self, key: str) -> frozenset[str]:
        """The names that a stored tensor's module may have in the model, numbers as `*`."""
        names = (key, *(name for one in self._described for name in one.renaming.parameters(key)))
        return frozenset(generalised(name).rpartition(".")[0] for name in names)

    @staticmethod
    def _first(*paths: str) -> frozenset[str]:
        return frozenset(path.partition(".")[0] for path in paths)


def _behind(prefix: str, leaves: frozenset[str]) -> frozenset[str]:
    return frozenset(leaf.removeprefix(prefix) for leaf in leaves if leaf.startswith(prefix))


def _paths(*leaves: Iterable[str]) -> frozenset[str]:
    """Modules, and whatever holds them."""
    found: set[str] = set()
    for leaf in (leaf for some in leaves for leaf in some):
        parts = leaf.split(".")
        found.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return frozenset(found)


def _in_release(architecture: Architecture, class_name: str, release: str) -> Described | None:
    """A class of the family as a release has it; None if it hasn't."""
    try:
        return architecture.of_class(class_name).described(release)
    except UndeterminedError:
        return None


def _declared(
    base: Checkpoint, names: Mapping[str, str], family: _Family, brought: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Entries for what the base lacks, or has in a head of another shape."""
    there = {new: base.info(key) for key, new in names.items()}
    sizes: Counter[str] = Counter()
    for info in base.tensor_infos():
        if info.dtype in FLOAT_NAMES:
            sizes[info.dtype] += info.parameters
    most = sizes.most_common(1)[0][0] if sizes else "F32"
    found = {}
    for parameter, info in brought.items():
        keys = list(family.target.stored_keys(parameter))
        key = next((key for key in keys if key in there), keys[0])
        lacking = key not in there and family.may_lack(parameter)
        if lacking or (key in there and there[key].shape != info.shape and family.in_head(parameter)):
            dtype = there[key].dtype if key in there else most
            found[key] = TensorInfo(key, dtype, info.shape, 0, 0)
    return found


def _view(
    base: Checkpoint, target: Architecture, names: Mapping[str, str], declared: Mapping[str, TensorInfo]
) -> Checkpoint:
    """The checkpoint with its tensors under other names; without those that have none, and with those that are
    declared, in a file that would else be empty or in the last one."""
    of_shard: list[dict[str, str]] = []
    for number, shard in enumerate(base.shards):
        own = {names[key]: key for key in shard.tensors if key in names and base.shard_of.get(key) == number}
        aliases = shard.aliases if isinstance(shard, TorchFile) else {}
        tied = [new for new, key in own.items() if aliases.get(key) in names and target.ties.of(new) is not None]
        of_shard.append({new: key for new, key in own.items() if new not in tied})
    last = next((number for number, own in enumerate(of_shard) if not own), len(of_shard) - 1)
    shards = tuple(
        RenamedFile(shard, own, declared if number == last else {})
        for number, (shard, own) in enumerate(zip(base.shards, of_shard, strict=True))
    )
    place = {new: number for number, shard in enumerate(shards) for new in shard.tensors}
    held = {names[key]: RenamedFile(file, {names[key]: key}) for key, file in base.held.items() if key in names}
    config: dict[str, Any] = {**(base.config or {}), "architectures": [target.class_name]}
    return replace(base, config=config, shards=shards, shard_of=place, held=held)
