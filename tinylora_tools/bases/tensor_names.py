"""Where an adapter's parts go in a base checkpoint: names in the model to tensors on disk, and ties between them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError, MismatchError, TinyLoraError, UndeterminedError, UnsupportedError
from ..formats.checkpoint import Checkpoint
from ..formats.tensors import same_values
from .architectures.architecture import Architecture
from .architectures.hints import way_out
from .architectures.ties import FLAG, Tie
from .shared_layers import SharedLayers


@dataclass(frozen=True, slots=True)
class TiedGroup:
    """Parameters that are one tensor in the model.

    `members` maps each parameter's name in the model to the tensor that holds it, or would hold it if it were untied;
    `stored` is the tensor that the checkpoint has; `optional` says whether the model's configuration can untie them.
    """

    stored: str
    members: dict[str, str]
    optional: bool


def in_numbered_layer(module: str) -> bool:
    """Whether a module is inside one of the layers that a model numbers, such as `model.layers.3.mlp.up_proj`."""
    return any(part.isdigit() for part in module.split(".")[:-1])


def not_known(config: Mapping[str, object]) -> str:
    """What to say of a base whose architecture the data lack."""
    kind = config.get("model_type")
    return f"the architecture {kind!r} isn't known" if kind else "no config.json tells the architecture"


def unknown_module(module: str, config: Mapping[str, object], where: Path) -> UndeterminedError:
    """What to say of an embedding or a head, as it may be, of an architecture that isn't known."""
    return UndeterminedError(
        f"{module}: {not_known(config)}, and with it whether this is an embedding or a head, whether its weight is "
        "tied to another and whether it scales what it looks up: the update depends on all three",
        where=where,
        hint=way_out(),
    )


def not_plain(module: str, architecture: Architecture, where: Path) -> UnsupportedError:
    """What to say of a module that does more than its kind."""
    return UnsupportedError(
        f"{module}: in transformers' {architecture.model_type} it is more than a {architecture.kind(module)} that is "
        "called (its forward does more, or its weight is taken without it), so PEFT's update has an effect that no "
        "weight could have",
        where=where,
        hint="Serve it with PEFT, or train an adapter that leaves this module out.",
    )


class BaseNames:
    """The tensors of a checkpoint by the names that parameters have in the model.

    `notes` are warnings about what was found on the way.
    """

    def __init__(self, base: Checkpoint, architecture: Architecture | None) -> None:
        self.base = base
        self.architecture = architecture
        self.notes: list[str] = []
        self._shared_layers = SharedLayers(base)
        self._groups: dict[Tie, TiedGroup | None] = {}
        self._keys: dict[str, str | None] = {}
        self._twice = {
            name: shard.path.name
            for number, shard in enumerate(base.shards)
            for name in shard.tensors
            if base.shard_of.get(name, number) != number
        }

    def group(self, parameter: str) -> TiedGroup:
        """The tensor that a parameter is stored in, with the parameters that share it.

        Raises
        ------
        MismatchError
            If the checkpoint has no such tensor.
        FormatError
            If it has two.
        UnsupportedError
            If it holds the parameter fused with others.
        """
        group = self._group(parameter)
        if group.stored in self._twice:
            listed = self.base.shards[self.base.shard_of[group.stored]].path.name
            raise FormatError(
                f"{group.stored} is in {listed}, as the index says, and in {self._twice[group.stored]}, from which "
                "transformers may load it",
                where=self.base.path,
                hint="Save the base again with save_pretrained, so that each tensor is there once.",
            )
        return group

    def _group(self, parameter: str) -> TiedGroup:
        if self.architecture is not None and (unclear := self.architecture.ties.unclear(parameter)) is not None:
            raise UndeterminedError(f"{parameter}: {unclear}", where=self.base.path, hint=way_out())
        for tie in self.architecture.ties.having(parameter) if self.architecture else ():
            group = self._tied(tie) if self._holds(tie, parameter) else None
            if group is not None and len(group.members) > 1 and parameter in group.members:
                return group
        key = self._own(parameter)
        if key is None:
            raise self._refusal(parameter)
        return TiedGroup(key, {parameter: key}, optional=True)

    def _holds(self, tie: Tie, parameter: str) -> bool:
        """Whether a parameter is tied: as the configuration says; where releases read that differently, or it can't be
        undone, as what is stored says.

        Raises
        ------
        UndeterminedError
            If that says nothing.
        """
        if tie.holds is None and self._own(parameter) is not None:
            others = {self._own(member) for member in tie.members} - {None, self._own(parameter)}
            if any(self._same(other, self._own(parameter) or "") for other in others if other is not None):
                raise UndeterminedError(
                    f"{' and '.join(tie.members)} are stored with the same values, and one release of transformers "
                    "takes them for one tensor by this config.json, another for two",
                    where=self.base.path,
                    hint="Say with tie_word_embeddings in config.json, at the top and in text_config, which they are.",
                )
            return not others
        return tie.holds is not False or (not tie.optional and self._own(parameter) is None)

    def require_known(self, module: str) -> None:
        """Raise UndeterminedError for a module of which nobody knows whether its weight is tied to another, or whether
        it scales what it looks up, as embeddings and heads may: where the architecture isn't known, and the module is
        in none of the numbered layers, or is in one and the checkpoint shows that layers may share its weight."""
        if self.architecture is not None:
            return
        if not in_numbered_layer(module):
            raise unknown_module(module, dict(self.base.config or {}), self.base.path)
        key = self._own(f"{module}.weight")
        sign = self._shared_layers.sign(key) if key is not None else None
        if sign is not None:
            raise UndeterminedError(
                f"{module}: {not_known(self.base.config or {})}, and {sign}: its weight may be that layer's too",
                where=self.base.path,
                hint=way_out(),
            )

    def require_updatable(self, module: str, release: str | None = None) -> None:
        """Raise where no weight can be known to have the effect of a module's update.

        Raises
        ------
        UndeterminedError
            If nobody knows what the module is (see `require_known`), or it hangs on the release of transformers.
        UnsupportedError
            If it does more than its kind: PEFT adds its update behind that.
        """
        self.require_known(module)
        if self.architecture is None:
            return
        if self.architecture.kind(module) is None and not in_numbered_layer(module):
            raise UndeterminedError(
                f"{module}: transformers' {self.architecture.model_type} has no such Linear, Conv1D or Embedding, so "
                "whether its weight is tied to another, or scaled, isn't known",
                where=self.base.path,
                hint=way_out(),
            )
        if not self.architecture.is_plain(module, release):
            raise not_plain(module, self.architecture, self.base.path)

    @property
    def tied(self) -> bool:
        """Whether the configuration ties anything."""
        return any(tie.holds is not False for tie in (self.architecture.ties.all if self.architecture else ()))

    def tied_groups(self) -> list[TiedGroup]:
        """All that the class ties, as far as the checkpoint has it."""
        ties = self.architecture.ties.among(self.base.shard_of) if self.architecture else ()
        return [group for tie in ties if tie.holds is not False and (group := self._tied(tie)) is not None]

    def untied_config(self) -> dict[str, Any]:
        """The entries of config.json that keep all ties apart: the flag at the top, and wherever else it counts."""
        entries: dict[str, Any] = {}
        for flag in self.architecture.ties.flags if self.architecture else (FLAG,):
            *parents, last = flag.split(".")
            inner = entries
            if parents:
                inner = entries.setdefault(parents[0], copy.deepcopy((self.base.config or {}).get(parents[0]) or {}))
            for part in parents[1:]:
                inner[part] = inner.get(part) or {}
                inner = inner[part]
            inner[last] = False
        return entries

    def _tied(self, tie: Tie) -> TiedGroup | None:
        """The members of a tie; without those that the checkpoint stores with other values, which transformers 5 then
        doesn't tie, whatever the configuration says. None where it stores none of them."""
        if tie not in self._groups:
            members = {member: self._own(member) for member in tie.members}
            stored = members[tie.stored] or next((key for key in members.values() if key is not None), None)
            self._groups[tie] = None if stored is None else self._without_others(tie, stored, members)
        return self._groups[tie]

    def _without_others(self, tie: Tie, stored: str, members: Mapping[str, str | None]) -> TiedGroup:
        same = {}
        for member, key in members.items():
            if key is None or key == stored or self._same(key, stored):
                same[member] = key or self._name_like(member)
            else:
                self.notes.append(
                    f"{key} and {stored} are stored with different values, though the configuration ties them: they "
                    "are taken for two tensors, as transformers 5 does (and 4 doesn't)"
                )
        return TiedGroup(stored, same, tie.optional)

    def _same(self, one: str, other: str) -> bool:
        return same_values(self.base.source(one), one, self.base.source(other), other)

    def kind(self, module: str) -> str | None:
        """The module's type: Linear, Conv1D or Embedding; None when the architecture doesn't say."""
        return self.architecture.kind(module) if self.architecture else None

    def _own(self, parameter: str) -> str | None:
        """The stored tensor of that very parameter."""
        if parameter not in self._keys:
            self._keys[parameter] = self._find(parameter)
        return self._keys[parameter]

    def _find(self, parameter: str) -> str | None:
        if self.architecture is not None:
            return next((key for key in self.architecture.stored_keys(parameter) if key in self.base), None)
        # Without data on the architecture, the one renaming that every model knows: a base saved with or without the
        # prefix that its head's class adds.
        shorter = parameter.partition(".")[2]
        longer = [key for key in self.base.shard_of if key.endswith("." + parameter)]
        candidates = [parameter, shorter, *(longer if len(longer) == 1 else [])]
        return next((key for key in candidates if key in self.base), None)

    def _name_like(self, member: str) -> str:
        """A name for a tensor that the checkpoint leaves out: one that stands beside others that it has."""
        containers = {key.rpartition(".")[0].rpartition(".")[0] for key in self.base.shard_of}
        above = {c[:end] for c in containers for end in range(len(c) + 1) if c[end : end + 1] in {"", "."}} | {""}
        candidates = list(self.architecture.stored_keys(member)) if self.architecture else [member]
        beside = (key for key in candidates if key.rpartition(".")[0].rpartition(".")[0] in above)
        return next(beside, candidates[0])

    def _refusal(self, parameter: str) -> TinyLoraError:
        where = self.base.path
        if self.architecture is not None and self.architecture.fused(parameter):
            return UnsupportedError(
                f"{parameter}: its weights are fused with others in this checkpoint and can't be addressed singly",
                where=where,
                hint="Save the base with one tensor an expert, as the Hub's checkpoints are.",
            )
        expert, found, _ = parameter.partition(".experts.")
        if found and any(key.startswith(f"{expert}.experts.gate_up_proj") for key in self.base.shard_of):
            return UnsupportedError(
                f"{parameter}: the base holds this layer's experts fused in one tensor",
                where=where,
                hint="Save the base with one tensor an expert, as the Hub's checkpoints are.",
            )
        if self.architecture is None:
            return UndeterminedError(
                f"the checkpoint has no tensor for {parameter}, which the adapter changes, and "
                f"{not_known(self.base.config or {})}, which would say whether it is tied to another or stored under "
                "another name",
                where=where,
                hint=f"Is this the adapter's base? {way_out()}",
            )
        return MismatchError(
            f"the checkpoint has no tensor for {parameter}, which the adapter changes",
            where=where,
            hint="Is this the base (and the model class, its head included) that the adapter was trained on?",
        )
