"""Can an adapter's P be had again? Which seeds and which arithmetic drew it, and what depends on the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...adapters.load import Adapter
from ...adapters.provenance import KNOWN_STREAMS, regime, shared_offsets, straddles
from ...core.compare import Difference, difference, digest
from ...core.lowrank import left_factor, projected, squared_norm, training_dtype
from ...core.streams import projection
from ...wording import argument, call
from .check import Check

#: What to do about a stored P that no known seed and arithmetic draws.
_CHANGED = (
    "The P in the file count, and load as they are. If nobody meant to change them, get the adapter from where it was "
    "made, and compare the files' sha256."
)


@dataclass(frozen=True, slots=True)
class AdapterVerdict:
    """What is known of an adapter's P.

    `stream` and `dtype` drew and rounded the stored P (None where nothing known did, or none is stored); `offset` is
    what PEFT 0.19 added to the seed, where it could be recovered. `matched` counts the modules whose P is as expected,
    `mismatched` names the others. `machine_dependent` are modules whose P, drawn again, differs between streams, and
    `delta_difference` by how much their update then does, relative to its norm, at most.
    """

    regime: str
    stream: str | None
    dtype: str | None
    seed: int
    offset: int | None
    modules: int
    matched: int
    mismatched: list[str] = field(default_factory=list)
    machine_dependent: list[str] = field(default_factory=list)
    delta_difference: float | None = None


def verify_adapter(adapter: Adapter, tolerance: float) -> tuple[AdapterVerdict, list[Check]]:
    """Verify a stored P against its seeds, or a P that isn't stored between the streams.

    Parameters
    ----------
    adapter : Adapter
    tolerance : float
        For a P that isn't stored: how much a module's update may differ between streams, relative to its norm.
    """
    header, seed = adapter.header, adapter.seed
    kind = regime(header, adapter.provenance)
    if not header.has_projections:
        return _verify_drawn(adapter, kind, tolerance)
    stored = adapter.projections()
    offset = None
    if kind == "shared-projection":
        offsets, usual = shared_offsets(stored, seed)
        offset = offsets[0] if len(offsets) == 1 else None
        places = dict.fromkeys(stored, offset)
        if offset is None:
            return _unexplained(kind, seed, stored, usual, offsets)
    else:
        places = _places(adapter, kind)
    verdict, checks = _compare(kind, seed, offset, stored, places)
    return verdict, [*checks, *_order_checks(adapter), *_ambiguities(adapter), *_roundings(adapter, stored)]


def _places(adapter: Adapter, kind: str) -> dict[str, int | None]:
    """The offset that each module's P should have come from."""
    found, index = adapter.provenance.offsets, adapter.numbering.index
    if kind == "seed-plus-index" and index is not None:
        return {module: index[module] for module in adapter.modules}
    # Of several offsets each draws this very P: the first is as good as any.
    places = {m: found[m][0] if found.get(m) else None for m in adapter.modules}
    left = set(range(len(places))) - {place for place in places.values() if place is not None}
    unknown = [module for module, place in places.items() if place is None]
    if len(left) == len(unknown) == 1:  # one module was changed: the others leave one place for it
        places[unknown[0]] = left.pop()
    return places


def _compare(
    kind: str, seed: int, offset: int | None, stored: Mapping[str, NDArray[Any]], places: Mapping[str, int | None]
) -> tuple[AdapterVerdict, list[Check]]:
    """The stored P against what each stream draws for its place."""
    dtypes = {module: training_dtype(P) for module, P in stored.items()}  # T5 in float16 keeps some in float32
    placed = {module: place for module in stored if (place := places[module]) is not None}
    by_stream: dict[str, dict[str, Difference]] = {}
    for stream in KNOWN_STREAMS:
        drawn = projection.draw_rounded(
            [seed + place for place in placed.values()],
            len(next(iter(stored.values()))),
            [stored[module].shape[1] for module in placed],
            [dtypes[module] for module in placed],
            stream=stream,
        )
        by_stream[stream] = {module: difference(stored[module], P) for module, P in zip(placed, drawn, strict=True)}
    best = max(by_stream, key=lambda stream: sum(d.identical for d in by_stream[stream].values()))
    good = {module for module, found in by_stream[best].items() if found.identical}
    bad = [module for module in stored if module not in good]
    everything = digest(np.concatenate([P.reshape(-1) for _, P in sorted(stored.items())]))
    checks = [
        Check(
            "stored P", "cpu", stream,
            ok=stream != best or not bad,
            identical=bool(results) and all(d.identical for d in results.values()) and len(results) == len(stored),
            max_ulp=max((d.max_ulp for d in results.values()), default=None),
            max_abs=max((d.max_abs for d in results.values()), default=None),
            note=f"{sum(d.identical for d in results.values())} of {len(stored)} modules identical",
            digest=everything,
            hint=_CHANGED if stream == best and bad else None,
        )
        for stream, results in by_stream.items()
    ]  # fmt: skip
    for module in bad[:20]:
        found = by_stream[best].get(module)
        note = f"differs from its seed's, {seed} + {places[module]}" if found else "no known seed draws it"
        checks.append(
            Check(
                f"P of {module}", "cpu", best, ok=False, identical=False,
                max_ulp=found.max_ulp if found else None, max_abs=found.max_abs if found else None, note=note,
            )
        )  # fmt: skip
    known = bool(good)
    return AdapterVerdict(
        regime=kind,
        stream=best if known else None,
        dtype=", ".join(sorted({dtypes[module] for module in good})) if known else None,
        seed=seed,
        offset=offset,
        modules=len(stored),
        matched=len(good),
        mismatched=bad,
    ), checks


def _order_checks(adapter: Adapter) -> list[Check]:
    """Whether the order that the seeds tell is the architecture's, or the one that is given, where both are known."""
    if adapter.architecture is None or adapter.provenance.order is None:
        return []
    numbering = adapter.numbering
    agrees = numbering.order == adapter.provenance.order
    given = argument("module_order") if numbering.source == "given" else adapter.architecture.model_type
    note = f"the order of {given}" if agrees else "; ".join([*map(str, numbering.doubts), *numbering.notes])
    hint = (
        None
        if agrees
        else f"Name the base that the adapter was trained on with {argument('base', ...)}, or its modules "
    )
    hint = hint and f"{hint}in their order with {argument('module_order', ...)}."
    return [
        Check(
            "module order", "cpu", None, ok=agrees, identical=agrees, max_ulp=None, max_abs=None, note=note, hint=hint
        )
    ]


def _ambiguities(adapter: Adapter) -> list[Check]:
    """Whether some P are too small to tell which seed drew them, as those of u = r = 1 are."""
    several = [module for module, offsets in adapter.provenance.offsets.items() if len(offsets) > 1]
    if not several:
        return []
    note = f"ambiguous: several seeds draw the P of {len(several)} modules, such as {several[0]}"
    return [Check("seeds", "cpu", None, ok=True, identical=None, max_ulp=None, max_abs=None, note=note)]


def _roundings(adapter: Adapter, stored: Mapping[str, NDArray[Any]]) -> list[Check]:
    """Whether P is rounded as the factors are: PEFT rounds both to the dtype of the weight. Small P of one dtype may be
    numbers of a narrower one; wider than the factors they can't be."""
    wider = [
        f"{module} ({adapter.training_dtype(module)})"
        for module, P in stored.items()
        if training_dtype(P) == "float32" and adapter.training_dtype(module) != "float32"
    ]
    if not wider:
        return []
    note = f"the P of {len(wider)} modules is float32, their factors are rounded: {wider[0]}; PEFT rounds both alike"
    return [
        Check("rounding", "cpu", None, ok=False, identical=None, max_ulp=None, max_abs=None, note=note, hint=_CHANGED)
    ]


def _unexplained(
    kind: str, seed: int, stored: Mapping[str, NDArray[Any]], usual: Mapping[str, NDArray[Any]], offsets: list[int]
) -> tuple[AdapterVerdict, list[Check]]:
    """A shared P whose offset isn't one: too small to tell, or drawn by nothing known."""
    bad = [module for module, P in stored.items() if P.tobytes() != usual[module].tobytes()]
    what = f"{len(offsets)} offsets draw it: too small to tell which" if offsets else "no offset draws it"
    check = Check(
        "stored P", "cpu", None, ok=bool(offsets) and not bad, identical=not bad, max_ulp=None, max_abs=None,
        note=f"one P for all modules; {what}", hint=None if offsets and not bad else _CHANGED,
    )  # fmt: skip
    return AdapterVerdict(
        regime=kind, stream=None, dtype=None, seed=seed, offset=None, modules=len(stored),
        matched=len(stored) - len(bad) if offsets else 0, mismatched=bad if offsets else list(stored),
    ), [check]  # fmt: skip


def _verify_drawn(adapter: Adapter, kind: str, tolerance: float) -> tuple[AdapterVerdict, list[Check]]:
    """P isn't stored: do the streams agree on it, and if not, does it matter?"""
    n, seed = len(adapter.modules), adapter.seed
    if adapter.header.seeding != "index":
        version = adapter.config.peft_version
        if adapter.header.seeding is None and version is not None:
            said = f"{argument('seeding', 'index')} or {argument('seeding', 'salted')}"
            note, hint = f"{straddles(version)}; {said} tells", f"Say {said}."
        else:
            what = "no configuration" if version is None else "PEFT 0.19 drew P from a salted hash and it wasn't saved"
            note = f"{what}: the seed is lost; {argument('against')} can recover it from a merged checkpoint or an "
            note += "adapter with P"
            hint = f"Name such a checkpoint or adapter: {argument('against', ...)}."
        lost = Check("seed", "cpu", None, False, None, None, None, note, hint=hint)
        return AdapterVerdict(kind, None, None, seed, None, n, 0, list(adapter.modules)), [lost]
    usual = adapter.on(stream=projection.DEFAULT_STREAM).projections()
    checks, dependent, worst = [], set(), 0.0
    for stream in KNOWN_STREAMS:
        drawn = adapter.on(stream=stream).projections()
        found = {module: difference(drawn[module], P) for module, P in usual.items()}
        differ = [module for module, one in found.items() if not one.identical]
        dependent |= set(differ)
        change = max((_update_change(adapter, module, usual[module], drawn[module]) for module in differ), default=0.0)
        worst = max(worst, change)
        note = f"{len(differ)} of {n} modules differ from {projection.DEFAULT_STREAM}'s, "
        note += f"their updates by at most {change:.1e} of their norm"
        checks.append(
            Check(
                "drawn P", "cpu", stream, ok=change <= tolerance, identical=not differ,
                max_ulp=max(one.max_ulp for one in found.values()), max_abs=max(one.max_abs for one in found.values()),
                note=note if differ else "as every machine's",
                digest=digest(np.concatenate([P.reshape(-1) for _, P in sorted(drawn.items())])),
                hint=None if change <= tolerance else _store_it(adapter),
            )
        )  # fmt: skip
    return AdapterVerdict(
        regime=kind, stream=None, dtype=None, seed=seed, offset=None, modules=n, matched=n - len(dependent),
        machine_dependent=[module for module in adapter.modules if module in dependent], delta_difference=worst,
    ), checks  # fmt: skip


def _store_it(adapter: Adapter) -> str:
    return (
        "Store P with the stream of the machine that trained it, so that all load the same: "
        f"{call('project', adapter.path, 'adapter-with-P')}."
    )


def _update_change(adapter: Adapter, module: str, one: NDArray[Any], other: NDArray[Any]) -> float:
    """||delta - delta'|| / ||delta|| for two P of a module."""
    A, B = adapter.factors(module)
    v = adapter.vector(adapter.groups[module])
    R = projected(v, one)
    norm = squared_norm(left_factor(B, R), A)
    gap = squared_norm(left_factor(B, projected(v, other) - R), A)
    return math.sqrt(gap / norm) if norm else 0.0
