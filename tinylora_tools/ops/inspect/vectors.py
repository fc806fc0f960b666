"""How large the trained vectors are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class VectorSize:
    """Of all numbers of all v: the dtypes that they are stored in, the root of their mean square, the largest, and how
    many are zero or no number. Those of an adapter that was never trained are all zero."""

    dtypes: list[str]
    rms: float
    largest: float
    zero: int
    not_finite: int


@dataclass(frozen=True, slots=True)
class VectorRow:
    """One group's v: its numbers, their root mean square, and how many modules share it, where that is known. A number
    that isn't one is None."""

    group: int
    modules: int | None
    rms: float | None
    numbers: list[float | None]


def row_of(group: int, v: NDArray[Any], modules: int | None) -> VectorRow:
    """A group's v (u,)."""
    values = v.astype(np.float64).reshape(-1)
    finite = np.all(np.isfinite(values))
    rms = math.sqrt(float(np.mean(values**2))) if finite and values.size else None
    return VectorRow(group, modules, rms, [x if math.isfinite(x) else None for x in values.tolist()])


def size_of(vectors: Iterable[NDArray[Any]]) -> VectorSize | None:
    """The size of vectors; None where there are none."""
    found = list(vectors)
    if not found:
        return None
    values = np.concatenate([v.astype(np.float64).reshape(-1) for v in found])
    finite = values[np.isfinite(values)]
    return VectorSize(
        dtypes=sorted({v.dtype.name for v in found}),
        rms=math.sqrt(float(np.mean(finite**2))) if finite.size else 0.0,
        largest=float(np.max(np.abs(finite), initial=0.0)),
        zero=int(np.sum(values == 0)),
        not_finite=int(values.size - finite.size),
    )
