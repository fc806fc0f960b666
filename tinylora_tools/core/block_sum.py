"""W + left @ right, a block of rows at a time: the arithmetic that a merge spends its time in.

The order of operations is fixed (see `lowrank`): the products of each rank are summed, the sum is added to W, and the
result is rounded once. 16-bit results are summed in float32, wider ones in float64. Per element the error is at most
1/2 ulp + (k + 2) 2^-24 (|W| + sum_k |left| |right|) for 16-bit results, and 1 ulp for float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .residual import Triplets, residual_parts

#: Elements of NumPy's buffer for products of a column and a row. Rows shorter than that are copied into it, which takes
#: three times as long as the product; the default is 8192, longer than most weights' rows.
_BUFFER = 512


class BlockSum(NamedTuple):
    """What a block adds to the report.

    error : the sum of squares of (result - W) - delta, that is what rounding did to the update; not finite if a result
        isn't.
    weight : the sum of squares of W
    residuals : for each set of triplets, the block's `residual_parts`
    """

    error: float
    weight: float
    residuals: list[tuple[NDArray[Any], NDArray[Any]]]


class BlockAdder(Protocol):
    """Sums blocks of at most a given number of elements. Not to be shared by threads."""

    def add(
        self,
        W: NDArray[Any],
        left: NDArray[Any],
        right: NDArray[Any],
        out: NDArray[Any],
        *,
        triplets: Sequence[Triplets] = (),
        first: int = 0,
    ) -> BlockSum:
        """Write W + left @ right, rounded once to its dtype, into `out`.

        Parameters
        ----------
        W : (rows, columns), as stored
        left : (rows, k), right : (k, columns), in `work_dtype(out.dtype)`
        out : (rows, columns)
        triplets : sequence of Triplets
            To check the whole weight against.
        first : int
            The block's first row in the whole weight.
        """


def work_dtype(result: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that a sum for `result` is formed in: float32 for 16-bit results, float64 for wider ones."""
    return np.dtype(np.float32 if result.itemsize <= 2 else np.float64)


class NumpyBlockAdder:
    """A BlockAdder on the CPU, in buffers that are reused."""

    def __init__(self, elements: int, dtype: np.dtype[Any]) -> None:
        self._buffers = [np.empty(elements, dtype) for _ in range(3)]

    def add(
        self,
        W: NDArray[Any],
        left: NDArray[Any],
        right: NDArray[Any],
        out: NDArray[Any],
        *,
        triplets: Sequence[Triplets] = (),
        first: int = 0,
    ) -> BlockSum:
        weight, delta, term = (buffer[: W.size].reshape(W.shape) for buffer in self._buffers)
        np.copyto(weight, W)
        with np.errstate(over="ignore", invalid="ignore"):
            size = float(np.vdot(weight, weight))  # while it is in the cache
            np.setbufsize(_BUFFER)  # until the block's end, which restores it
            np.multiply(left[:, :1], right[:1], out=delta)
            for k in range(1, left.shape[1]):
                np.multiply(left[:, k : k + 1], right[k : k + 1], out=term)
                np.add(delta, term, out=delta)
            np.add(weight, delta, out=term)
            np.copyto(out, term, casting="unsafe")  # the one rounding
            np.copyto(term, out)
            np.subtract(term, weight, out=term)
            np.subtract(term, delta, out=term)
            error = float(np.vdot(term, term))
            return BlockSum(error, size, [residual_parts(weight, one, first) for one in triplets])
