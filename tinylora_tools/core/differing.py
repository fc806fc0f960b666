"""How two stored tensors differ, block by block: by how much, and by a matrix of which rank."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Ranks below this are told; as many columns has the sketch of a difference.
MOST_RANK = 40

#: A singular value counts when it is above so many times what rounding alone makes the largest one.
_ABOVE_NOISE = 1.5

#: By dtype, the distance of 1 to the next number.
_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class Figures(NamedTuple):
    """The largest distance of two entries, ||a - b|| over ||a||, and the largest distance in units in the last place,
    where both have one dtype with such."""

    max_abs: float
    relative: float
    max_ulp: int | None


class Differing:
    """Sums over blocks of rows of two matrices a and b, and the sketch (a - b) X of their difference.

    X (in, MOST_RANK) is random and fixed; the sketch has the difference's range where its rank is lower.
    """

    def __init__(self, rows: int, columns: int, *, sketched: bool) -> None:
        self.rows, self.columns = rows, columns
        self._squares = self._whole = self._noise = self._most = 0.0
        self._ulp: int | None = 0
        self._entries = 0
        self._width = min(MOST_RANK, rows, columns)
        random = np.random.default_rng(0)
        self._X = random.standard_normal((columns, self._width)) if sketched else None
        self._sketch = np.zeros((rows, self._width)) if sketched else None  # (out, width)
        self._Q: NDArray[Any] | None = None

    def add(self, a: NDArray[Any], b: NDArray[Any], first: int) -> None:
        """The rows from `first` on, each block as it is stored."""
        wide, other = a.astype(np.float64), b.astype(np.float64)
        off = _off(wide, other)
        self._most = max(self._most, _largest(off))
        self._squares += float(np.vdot(off, off))
        self._whole += float(np.vdot(wide, wide))
        self._noise += _rounding(wide, a.dtype.name) + _rounding(other, b.dtype.name)
        self._entries += a.size
        if self._ulp is not None:
            steps = _steps(a, b)
            self._ulp = None if steps is None else max(self._ulp, steps)
        if self._X is not None and self._sketch is not None:
            self._sketch[first : first + len(off)] = np.nan_to_num(off) @ self._X

    def figures(self) -> Figures:
        """What is known after all blocks."""
        relative = math.sqrt(self._squares / self._whole) if self._whole else (math.inf if self._squares else 0.0)
        return Figures(self._most, relative, self._ulp)

    def start_again(self) -> None:
        """Go through the blocks a second time, with `project`."""
        assert self._sketch is not None  # noqa: S101
        self._Q = np.linalg.qr(self._sketch)[0]  # (out, width)
        self._projected = np.zeros((self._width, self.columns))

    def project(self, a: NDArray[Any], b: NDArray[Any], first: int) -> None:
        """The same blocks: the sum of Q^T (a - b)."""
        assert self._Q is not None  # noqa: S101
        off = np.nan_to_num(_off(a.astype(np.float64), b.astype(np.float64)))
        self._projected += self._Q[first : first + len(off)].T @ off

    def rank(self) -> int:
        """How many singular values of the difference stand above what the rounding of both makes by itself; MOST_RANK
        stands for as many or more.

        Rounding moves each entry by a uniform error of its unit u in the last place, of variance u^2 / 12. The largest
        singular value of such a matrix is about its standard deviation times (sqrt(out) + sqrt(in)).
        """
        values = np.linalg.svd(self._projected, compute_uv=False)
        deviation = math.sqrt(self._noise / 12 / max(1, self._entries))
        noise = deviation * (math.sqrt(self.rows) + math.sqrt(self.columns))
        return int(np.sum(values > max(_ABOVE_NOISE * noise, values[0] * 1e-12)))


def _off(wide: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """The difference of two float64 arrays; zero where both are the same infinity, or NaN."""
    with np.errstate(invalid="ignore"):
        off: NDArray[Any] = wide - other
    off[(wide == other) | (np.isnan(wide) & np.isnan(other))] = 0.0
    return off


def _largest(off: NDArray[Any]) -> float:
    most = float(np.max(np.abs(off), initial=0.0))
    return math.inf if math.isnan(most) else most


def _rounding(values: NDArray[Any], dtype: str) -> float:
    """The sum over entries of the square of the unit in the last place."""
    eps = _EPS.get(dtype)
    if eps is None:
        return 0.0
    _, exponents = np.frexp(values)  # values = m 2^e, m in [0.5, 1)
    units = np.where((values == 0) | ~np.isfinite(values), 0.0, np.ldexp(eps, exponents - 1))
    return float(np.vdot(units, units))


def _steps(a: NDArray[Any], b: NDArray[Any]) -> int | None:
    """The largest number of floating-point numbers between two entries; None where the dtypes differ or have none."""
    if a.dtype != b.dtype or a.dtype.name not in _EPS:
        return None
    return int(np.max(np.abs(_ordered(a) - _ordered(b)), initial=0))


def _ordered(values: NDArray[Any]) -> NDArray[Any]:
    """Integers that count floating-point numbers in their order, through zero; float64's by twos, so that differences
    fit."""
    width = values.dtype.itemsize
    bits = np.ascontiguousarray(values).view(f"<i{width}").astype(np.int64)
    sign = np.int64(1) << np.int64(8 * width - 1) if width < 8 else np.int64(-(2**63))
    magnitude = bits & ~sign
    negative = bits < 0
    ordered: NDArray[Any] = np.where(negative, -magnitude, magnitude)
    return ordered if width < 8 else ordered // 2
