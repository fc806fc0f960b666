"""Products of 8-bit floats with the scales of the blocks that they are in: what block-quantized weights stand for."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def block_of(
    shape: tuple[int, ...], grid: tuple[int, ...], said: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """The size of the blocks that a weight's scales are of.

    Parameters
    ----------
    shape : (..., rows, columns)
        Of the weight.
    grid : (..., row blocks, column blocks), or of one element
        Of the scales.
    said : (int, int), optional
        What the model's configuration says: the last blocks of such a grid may be cut off by the weight's edge. Where
        it doesn't fit, blocks are those that part the weight evenly, as transformers takes them.

    Returns
    -------
    (int, int), or None where the grid fits no blocks of the weight
    """
    rows, columns = shape[-2:]
    if prod(grid) == 1:
        return max(rows, 1), max(columns, 1)
    if len(grid) != len(shape) or grid[:-2] != shape[:-2] or 0 in grid:
        return None
    if said is not None and grid[-2:] == (-(-rows // said[0]), -(-columns // said[1])):
        return said
    if rows % grid[-2] or columns % grid[-1]:
        return None
    return max(rows // grid[-2], 1), max(columns // grid[-1], 1)


def multiply(values: NDArray[Any], scales: NDArray[Any], block: tuple[int, int], first: int, height: int) -> None:
    """Multiply each value by the scale of its block, in place: one product in float32, as transformers forms it.

    Parameters
    ----------
    values : (rows, columns) float32
    scales : (row blocks, column blocks) float32
        Of the whole weight; those of several matrices stand below each other, as their rows do.
    block : (int, int)
    first : int
        The first row of `values` in the whole weight.
    height : int
        Rows of a matrix.
    """
    import numpy as np

    matrix, row = np.divmod(np.arange(first, first + len(values)), height)
    of_row = scales[matrix * -(-height // block[0]) + row // block[0]]  # (rows, column blocks)
    width, columns = block[1], values.shape[1]
    whole = columns // width
    if whole:
        parts = values[:, : whole * width].reshape(-1, whole, width)  # a view: only the last axis is split
        np.multiply(parts, of_row[:, :whole, None], out=parts)
    if whole * width < columns:
        rest = values[:, whole * width :]
        np.multiply(rest, of_row[:, whole:], out=rest)
