"""Factors of several adapters' updates."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

from ..errors import MismatchError
from ..wording import argument


def one_each(scale: float | Sequence[float], adapters: int) -> tuple[float, ...]:
    """A factor for each adapter: the one that is given for all, or those that are given for each.

    Raises
    ------
    MismatchError
        If there are as many as neither.
    """
    given = tuple(float(one) for one in ([scale] if isinstance(scale, Real) else scale))  # type: ignore[union-attr]
    if len(given) not in (1, adapters):
        raise MismatchError(
            f"{len(given)} scales for {adapters} adapters",
            hint=f"Give {argument('scale')} once, or for each.",
        )
    return given * adapters if len(given) == 1 else given
