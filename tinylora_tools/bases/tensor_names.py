"""Where an adapter's parts go in a base checkpoint: names in the model to tensors on disk, and ties between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, MismatchError, TinyLoraError, UndeterminedError, UnsupportedError
from ..formats.checkpoint import Checkpoint
from ..formats.tensors import same_values
from .architecture import Architecture, Tie


@dataclass(frozen=True, slots=True)
class TiedGroup:
    """Parameters that are one tensor in the model.

    `members` maps each parameter's name in the model to the tensor that holds it, or would hold it if it were untied;
    `stored` is the tensor that the checkpoint has; `optional` says whether the model's configuration can untie them.
    """

    stored: str
    members: dict[str, str]
    optional: bool


def is_tied(config: dict[str, object] | None, architecture: Architecture | None) -> bool:
    """Whether the configuration ties word embeddings."""
    default = architecture.tied_by_default if architecture else False
    return bool((config or {}).get("tie_word_embeddings", default))


def in_numbered_layer(module: str) -> bool:
    """Whether a module is inside one of the layers that a model numbers, such as `model.layers.3.mlp.up_proj`."""
    return any(part.isdigit() for part in module.split(".")[:-1])


def _not_known(config: Mapping[str, object]) -> str:
    kind = config.get("model_type")
    return f"the architecture {kind!r} isn't known" if kind else "no config.json tells the architecture"


def unknown_module(module: str, config: Mapping[str, object], where: Path) -> UndeterminedError:
    """What to say of an embedding or a head, as it may be, of an architecture that isn't known."""
    return UndeterminedError(
        f"{module}: {_not_known(config)}, and with it whether this is an embedding or a head, whether its weight is "
        "tied to another and whether it scales what it looks up: the update depends on all three",
        where=where,
        hint="Merge it with PEFT under the transformers that knows the model, or train an adapter that leaves "
        "embeddings and heads out.",
    )


class BaseNames:
    """The tensors of a checkpoint by the names that parameters have in the model.

    `notes` are warnings about what was found on the way.
    """

    def __init__(self, base: Checkpoint, architecture: Architecture | None) -> None:
        self.base = base
        self.architecture = architecture
        self.tied = is_tied(dict(base.config or {}), architecture)
        self.notes: list[str] = []
        self._groups: dict[Tie, TiedGroup | None] = {}
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
        tie = self.architecture.ties(parameter) if self.architecture else None
        if tie is not None and (self.tied or (not tie.optional and self._own(parameter) is None)):
            group = self._tied(tie)
            if group is not None and parameter in group.members:
                return group
        key = self._own(parameter)
        if key is None:
            raise self._refusal(parameter)
        return TiedGroup(key, {parameter: key}, optional=True)

    def require_known(self, module: str) -> None:
        """Raise UndeterminedError for a module of which nobody knows whether its weight is tied to another, or whether
        it scales what it looks up, as embeddings and heads may: where the architecture isn't known, and the module is
        in none of the numbered layers, whose weights no model ties."""
        if self.architecture is None and not in_numbered_layer(module):
            raise unknown_module(module, dict(self.base.config or {}), self.base.path)

    def tied_groups(self) -> list[TiedGroup]:
        """All that the class ties, as far as the checkpoint has it."""
        ties = self.architecture.all_ties if self.architecture else ()
        return [group for tie in ties if (group := self._tied(tie)) is not None]

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
                same[member] = key or self._name_like(member, stored)
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
        if self.architecture is not None:
            return next((key for key in self.architecture.stored_keys(parameter) if key in self.base), None)
        # Without data on the architecture, the one renaming that every model knows: a base saved with or without the
        # prefix that its head's class adds.
        shorter = parameter.partition(".")[2]
        longer = [key for key in self.base.shard_of if key.endswith("." + parameter)]
        candidates = [parameter, shorter, *(longer if len(longer) == 1 else [])]
        return next((key for key in candidates if key in self.base), None)

    def _name_like(self, member: str, stored: str) -> str:
        """A name for a tensor that the checkpoint leaves out: in the same style as one that it has."""
        candidates = self.architecture.stored_keys(member) if self.architecture else [member]
        prefix = f"{self.architecture.base_model_prefix}." if self.architecture else ""
        if prefix != "." and member.startswith(prefix) and not stored.startswith(prefix):
            return next((key for key in candidates if not key.startswith(prefix)), member)
        return candidates[0]

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
                f"{_not_known(self.base.config or {})}, which would say whether it is tied to another or stored under "
                "another name",
                where=where,
                hint="If this is the adapter's base, merge them with PEFT under the transformers that knows the model.",
            )
        return MismatchError(
            f"the checkpoint has no tensor for {parameter}, which the adapter changes",
            where=where,
            hint="Is this the base (and the model class, its head included) that the adapter was trained on?",
        )
