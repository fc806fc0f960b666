"""What is in another project's adapter, as far as its own files tell."""

from __future__ import annotations

from dataclasses import dataclass

from ...adapters.answers import Answers
from ...adapters.source import Source
from ...bases.base import Base
from ...errors import TinyLoraError, UndeterminedError
from ...formats import third_party
from ...formats.third_party import Found
from ...sources.locate import shown
from ...wording import call
from .rounding import RoundingLoss, rounding_in
from .vectors import VectorSize, size_of


@dataclass(frozen=True, slots=True)
class ThirdPartyReport:
    """All that `tinylora inspect` says of another project's adapter; what its files don't tell is None.

    `trained_in` is the dtype of its forward pass, "weight" for the base's; `unknown` says what has to be told of it
    before it can be converted.
    """

    kind: str
    path: str
    dialect: str
    rank: int | None
    u: int | None
    groups: int | None
    trainable_parameters: int | None
    vectors: VectorSize | None
    rounding: RoundingLoss | None
    modules: int | None
    trained_in: str | None
    base_model: str | None
    unknown: str | None
    warnings: list[str]


def inspect_third_party(found: Found, base: Base | None = None) -> ThirdPartyReport:
    """Describe an adapter of another project from its files; with a base that has weights it is imported, and a few
    modules tell what rounding would lose.

    Raises
    ------
    FormatError
        If they are damaged.
    """
    kind, path = "third-party", shown(found.path)
    hint = f"`{call('to_peft', path, 'ADAPTER', base=...)}` makes it PEFT's"
    try:
        adapter = third_party.read(found, {})
    except UndeterminedError as error:
        said = f"{error.what}. {error.hint or ''}".strip()
        return ThirdPartyReport(kind, path, found.dialect, *(None,) * 9, unknown=said, warnings=[hint])
    return ThirdPartyReport(
        kind=kind,
        path=path,
        dialect=found.dialect,
        rank=adapter.rank,
        u=adapter.proj_dim,
        groups=len(adapter.vectors),
        trainable_parameters=sum(v.size for v in adapter.vectors),
        vectors=size_of(adapter.vectors),
        rounding=_rounding(found, base),
        modules=None if adapter.names is None else len(adapter.names),
        trained_in=adapter.trained_in,
        base_model=adapter.base_model,
        unknown=None,
        warnings=[*adapter.notes, hint],
    )


def _rounding(found: Found, base: Base | None) -> RoundingLoss | None:
    if base is None or not base.has_weights or base.afar:
        return None
    try:
        return rounding_in(Source(found.path, found.dialect, found, Answers()).open(base), base)
    except TinyLoraError:  # what isn't told is said by who converts it
        return None
