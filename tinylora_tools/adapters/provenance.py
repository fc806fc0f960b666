"""Each module's P: where the stored ones come from, and the ones that the file leaves to the seed.

How PEFT seeds the generator of a module's P:

- 0.20 on: projection_seed + i, with i the module's place among the targeted modules. An adapter that is added to layers
  which already carry one inherits the first adapter's i.
- 0.19: projection_seed + hash(adapter name) % 10000, with a hash that Python salts anew in each process: one P for all
  modules, and a seed that nobody knows. (An adapter added to wrapped layers gets projection_seed + i even there.)
- 0.19.2.dev0: the one or the other, by its commit (`formats/peft/release.py`).

Source: peft/tuners/tinylora/layer.py, `_get_layer_seed`, of PEFT 0.19.1, 0.20.0 and 0.21.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.lowrank import training_dtype
from ..core.streams import projection
from ..errors import UndeterminedError
from ..formats.peft.adapter import PeftAdapter
from ..formats.peft.config import TinyLoraConfig
from ..wording import argument

#: PEFT 0.19 adds hash(adapter name) % 10000 to the seed.
HASHED_OFFSETS = 10_000

#: How far past its own modules an adapter's offsets are searched: another adapter's numbering may have been longer.
SEARCH_BEYOND = 1024

#: Streams that a P is looked for in. Others (Arm's, say) differ from these by rounding only, which `_near` allows for.
KNOWN_STREAMS = ("torch-cpu-avx2", "torch-cpu-scalar")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the stored P come from.

    Attributes
    ----------
    offsets : Mapping[str, tuple[int, ...]]
        For each module the i whose seed, projection_seed + i, gives its P: none when unknown, several when P is too
        small to tell. Empty when the adapter stores no P.
    shared : bool
        All modules (of one rank) hold the same P, as PEFT 0.19 makes them.
    """

    offsets: Mapping[str, tuple[int, ...]]
    shared: bool

    @property
    def order(self) -> list[str] | None:
        """The modules in the order that their offsets tell, where these are 0 to n-1, each once, without a doubt."""
        if not self.offsets or any(len(found) != 1 for found in self.offsets.values()):
            return None
        place = {module: found[0] for module, found in self.offsets.items()}
        return sorted(place, key=lambda m: place[m]) if sorted(place.values()) == list(range(len(place))) else None


def provenance(adapter: PeftAdapter) -> Provenance:
    """Match every stored P with the seeds that could have drawn it."""
    if not adapter.modules or not adapter.has_projections:
        return Provenance({}, False)
    stored = stored_projections(adapter)
    by_shape: dict[tuple[int, ...], dict[str, NDArray[Any]]] = {}
    for module, P in stored.items():
        by_shape.setdefault(P.shape, {})[module] = P
    alike = all(len({P.tobytes() for P in group.values()}) == 1 for group in by_shape.values())
    offsets: dict[str, tuple[int, ...]] = {}
    for group in by_shape.values():
        offsets |= _match(group, adapter.config.projection_seed, len(adapter.modules))
    return Provenance(offsets if any(offsets.values()) else {}, alike and len(stored) > 1)


def stored_projections(adapter: PeftAdapter) -> dict[str, NDArray[Any]]:
    """Every P (u, r', r') that the file holds, by module, in the file's dtype."""
    found = {module: adapter.stored_projection(module) for module in adapter.modules}
    return {module: P for module, P in found.items() if P is not None}


def _match(stored: Mapping[str, NDArray[Any]], seed: int, modules: int) -> dict[str, tuple[int, ...]]:
    """Offsets for P of one shape: first 0 to modules - 1, then further for what that leaves open."""
    found: dict[str, tuple[int, ...]] = {}
    for start, stop in ((0, modules), (modules, modules + SEARCH_BEYOND)):
        wanted = {module: P for module, P in stored.items() if not found.get(module)}
        if wanted and stop + seed < 2**64 and seed >= -(2**63):
            found |= _search(wanted, range(seed + start, seed + stop), start)
    return found


def _search(wanted: Mapping[str, NDArray[Any]], seeds: Sequence[int], first: int) -> dict[str, tuple[int, ...]]:
    u, r, _ = next(iter(wanted.values())).shape
    left = dict(wanted)
    found: dict[str, tuple[int, ...]] = {}
    for stream in KNOWN_STREAMS:
        drawn = projection.draw_many(seeds, u, r, stream=stream)  # (n, u, r, r)
        tables: dict[str, dict[bytes, list[int]]] = {}
        for module, P in list(left.items()):
            wide = P.astype(np.float32)
            dtype = training_dtype(wide)
            if dtype not in tables:
                table = tables[dtype] = {}
                for number, one in enumerate(projection.round_to(drawn, dtype)):
                    table.setdefault(one.tobytes(), []).append(first + number)
            if hit := tables[dtype].get(wide.tobytes()):
                found[module] = tuple(hit)
                del left[module]
        if not left:
            return found
    for module, P in left.items():
        found[module] = tuple(first + number for number in _near(drawn, P.astype(np.float32)))
    return found


def _near(drawn: NDArray[Any], P: NDArray[Any]) -> list[int]:
    """Which of the drawn (n, u, r, r) are P up to the rounding of another machine's float32 functions."""
    unit = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 0.0}[training_dtype(P)]
    flat, target = drawn.reshape(len(drawn), -1), P.reshape(-1)
    close = np.flatnonzero(np.abs(flat[:, 0] - target[0]) <= 4e-6 + unit * abs(target[0]))
    return [int(n) for n in close if np.all(np.abs(flat[n] - target) <= 4e-6 + unit * np.abs(target))]


def regime(adapter: PeftAdapter, found: Provenance) -> str:
    """What seeded P, in a word.

    - "seed-plus-index": projection_seed + the module's place (PEFT 0.20 on)
    - "seed-plus-other-index": projection_seed + places in another adapter's numbering
    - "shared-projection": one P for all modules, from a seed that is lost (PEFT 0.19)
    - "stored-projection": P is stored and nothing known drew it
    - "unknown": P isn't stored, and what it is drawn from isn't known
    """
    if adapter.has_projections:
        known = [offsets for offsets in found.offsets.values() if offsets]
        if 2 * len(known) > len(adapter.modules):  # one that was changed doesn't hide where the others come from
            return "seed-plus-index" if _are_places(known, len(adapter.modules)) else "seed-plus-other-index"
        return "shared-projection" if found.shared or adapter.seeding == "salted" else "stored-projection"
    return {"index": "seed-plus-index", "salted": "shared-projection", None: "unknown"}[adapter.seeding]


def _are_places(offsets: Sequence[tuple[int, ...]], modules: int) -> bool:
    """Whether offsets can be the places of different modules among so many."""
    certain = [found[0] for found in offsets if len(found) == 1]
    return len(set(certain)) == len(certain) and all(min(found) < modules for found in offsets)


def drawn_projections(
    adapter: PeftAdapter,
    modules: Sequence[str],
    places: Mapping[str, int],
    training_dtype: Callable[[str], str],
    *,
    stream: str = projection.DEFAULT_STREAM,
) -> dict[str, NDArray[Any]]:
    """P (u, r', r') of modules whose P isn't stored, in float32, drawn as PEFT would draw it.

    Parameters
    ----------
    adapter : PeftAdapter
    modules : sequence of str
    places : Mapping[str, int]
        Each module's place among those targeted.
    training_dtype : callable
        A module's name to the dtype that it was trained in, to which P is rounded.
    stream : str
        A name from `core.streams.projection.STREAMS`.

    Raises
    ------
    UndeterminedError
        If the seed can't be known.
    """
    config = require_seed(adapter)
    seeds = [config.projection_seed + places[module] for module in modules]
    ranks, dtypes = [adapter.modules[module].rank for module in modules], [training_dtype(one) for one in modules]
    return dict(zip(modules, projection.draw_rounded(seeds, config.u, ranks, dtypes, stream=stream), strict=True))


def shared_offsets(stored: Mapping[str, NDArray[Any]], seed: int) -> tuple[list[int], Mapping[str, NDArray[Any]]]:
    """Which of PEFT 0.19's offsets draw the P that most modules share; and that P for each module's shape."""
    usual: dict[tuple[int, ...], NDArray[Any]] = {}
    for shape in {P.shape for P in stored.values()}:
        alike = Counter(P.tobytes() for P in stored.values() if P.shape == shape)
        usual[shape] = np.frombuffer(alike.most_common(1)[0][0], np.float32).reshape(shape)
    offsets: set[int] | None = None
    for shape, P in usual.items():
        dtype, found = training_dtype(P), set()
        for stream in KNOWN_STREAMS:
            drawn = projection.draw_many(range(seed, seed + HASHED_OFFSETS), *shape[:2], stream=stream)
            same = np.all(projection.round_to(drawn, dtype) == P, axis=(1, 2, 3))
            found |= {int(offset) for offset in np.flatnonzero(same)}
        offsets = found if offsets is None else offsets & found
    return sorted(offsets or ()), {module: usual[P.shape] for module, P in stored.items()}


def straddles(version: str) -> str:
    """What to say of a release that doesn't tell what P, which isn't stored, is drawn from."""
    return (
        f"P isn't stored, and PEFT {version} drew it from projection_seed and the module's place, or, before peft#3180 "
        "of 21 April 2026, from a salted hash: the release doesn't tell which, and its commit isn't known"
    )


def require_seed(adapter: PeftAdapter) -> TinyLoraConfig:
    """The configuration that a P which isn't stored can be drawn by.

    Raises
    ------
    UndeterminedError
        If the seed can't be known.
    """
    config = adapter.config
    if config.peft_version is None:
        raise UndeterminedError(
            "P isn't stored, and without an adapter_config.json that names its seed and PEFT's version it is lost",
            where=adapter.file.path,
            hint="Put the adapter_config.json that was saved with it beside the file.",
        )
    if adapter.seeding is None:
        raise UndeterminedError(
            straddles(config.peft_version),
            where=adapter.file.path,
            hint=f"Say {argument('seeding', 'index')} if that PEFT was installed after 21 April 2026, as nearly all of "
            f"that version were; {argument('seeding', 'salted')} means that P is lost.",
        )
    if adapter.seeding == "salted":
        raise UndeterminedError(
            f"PEFT {config.peft_version} drew P from a seed that Python's hash salted, and P wasn't saved: "
            "the adapter can't be reproduced",
            where=adapter.file.path,
            hint="Save it with save_projection=True from the process that trained it, or train it with PEFT 0.20 on.",
        )
    return config
