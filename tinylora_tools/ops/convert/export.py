"""A LoRA adapter before it is written, as a program that serves it would look at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...adapters.load import Adapter
from ...bases.architectures.architecture import Architecture
from ...errors import UnsupportedError
from ...wording import argument
from .brought import Brought, brought_whole, merge_instead


@dataclass(frozen=True, slots=True)
class Limit:
    """What a program doesn't take.

    Attributes
    ----------
    what : str
        A sentence that names the program.
    grade : "refused", "lost" or "unknown"
        Whether it stops at it, passes over it or takes it for something else, or nobody knows.
    hint : str
        The way out.
    """

    what: str
    grade: Literal["refused", "lost", "unknown"]
    hint: str


@dataclass(frozen=True, slots=True)
class Export:
    """What is going to be written.

    Attributes
    ----------
    path : Path
        The first adapter's.
    config : Mapping
        The base's config.json; empty where none is at hand.
    architecture : Architecture, optional
    kinds : Mapping
        Types of layers by the adapted modules' names.
    rank : int
    differing : bool
        Whether ranks differ.
    brought : Brought
        What comes along whole.
    base_name : str
        As the adapter has it, perhaps empty.
    """

    path: Path
    config: Mapping[str, Any]
    architecture: Architecture | None
    kinds: Mapping[str, str]
    rank: int
    differing: bool
    brought: Brought
    base_name: str

    @classmethod
    def of(cls, loaded: Sequence[Adapter], *, padded: bool) -> Export:
        """What adapters come to; of a module that nobody knows, the type counts as Linear."""
        first = loaded[0]
        known = next((one.architecture for one in loaded if one.architecture), None)
        modules = dict.fromkeys(module for one in loaded for module in one.modules)
        ranks = [sum(one.modules[name].A.shape[0] for one in loaded if name in one.modules) for name in modules]
        return cls(
            path=first.path,
            config=(first.base.config if first.base else None) or {},
            architecture=known,
            kinds={module: (known.kind(module) if known else None) or "Linear" for module in modules},
            rank=max(ranks),
            differing=not padded and len(set(ranks)) > 1,
            brought=brought_whole(loaded),
            base_name=first.config.base_model_name_or_path or "",
        )

    @property
    def class_name(self) -> str:
        names = self.config.get("architectures")
        return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""

    @property
    def model_type(self) -> str:
        said = self.config.get("model_type")
        return said if isinstance(said, str) else ""

    @property
    def merge(self) -> str:
        """The way that always works."""
        return merge_instead(self.path)

    def tied(self, module: str) -> bool:
        """Whether a weight is another's too, as far as anything tells: what isn't known counts as tied."""
        if self.architecture is None:
            return True
        ties, parameter = self.architecture.ties, f"{module}.weight"
        return ties.unclear(parameter) is not None or any(tie.holds is not False for tie in ties.having(parameter))

    def whole(self, title: str, grade: Literal["refused", "lost"], but: Sequence[str] = ()) -> list[Limit]:
        """What comes along whole, for a program that takes none of it in an adapter but some modules' own."""
        other = [name for name in self.brought.other if name.rpartition(".")[0].rpartition(".")[2] not in but]
        if other:
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            what = (
                f"the adapter brings {other[0]}{more}, and {title} takes neither biases nor modules_to_save in a LoRA "
            )
            return [Limit(f"{what}adapter" + (", and doesn't say so" if grade == "lost" else ""), grade, self.merge)]
        if self.brought.unknown:
            what = (
                f"the adapter brings {self.brought.unknown[0]}, and whether that is the base's own, so that it can be "
                f"left out for {title}, isn't known without the base's weights"
            )
            hint = f"Name the base's directory, with its weights, with {argument('base', ...)}. Or: {self.merge}"
            return [Limit(what, "lost", hint)]
        return []

    def several_ranks(self, title: str, grade: Literal["refused", "lost"]) -> list[Limit]:
        """Ranks that differ, for a program that knows one."""
        if not self.differing:
            return []
        how = ", and scales by one alpha over each module's own rank" if grade == "lost" else ""
        hint = f"Leave {argument('rank_pattern')} out: ranks are padded with zeros."
        return [Limit(f"{title} knows no rank_pattern{how}", grade, hint)]


def refuse(limits: Iterable[Limit], export: Export) -> list[str]:
    """What isn't known.

    Raises
    ------
    UnsupportedError
        For whatever a program would refuse or lose.
    """
    found = list(limits)
    wrong = [limit for limit in found if limit.grade != "unknown"]
    if wrong:
        more = f" (and {len(wrong) - 1} more such)" if len(wrong) > 1 else ""
        raise UnsupportedError(wrong[0].what + more, where=export.path, hint=wrong[0].hint)
    return [limit.what for limit in found]
