"""What to tell people about the triplets of their weights."""

from __future__ import annotations

from collections.abc import Sequence

from .modules import Module


def reduced_ranks(modules: Sequence[Module], rank: int) -> list[str]:
    """A warning where weights are smaller than the rank that is asked for."""
    smaller = [module for module in modules if module.rank(rank) < rank]
    if not smaller:
        return []
    first = smaller[0]
    return [
        f"{_and_more([m.name for m in smaller])}: r={rank} is more than the {first.out_features} x {first.in_features} "
        f"weight has; reduced to {first.rank(rank)}, as PEFT does"
    ]


def undetermined_vectors(names: Sequence[str]) -> list[str]:
    """A warning where weights don't determine their singular vectors."""
    if not names:
        return []
    return [
        f"{_and_more(names)}: singular values lie so close together (or to zero) that the weight doesn't determine "
        "their vectors. Keep the factors that an adapter was trained with: computed again elsewhere, they would differ"
    ]


def _and_more(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
