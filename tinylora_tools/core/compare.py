"""Whether arrays are the same, and how far apart two float32 ones are."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .lowrank import left_factor, squared_norm


class Difference(NamedTuple):
    """Whether the bits are the same, and the largest distance in units in the last place and in absolute terms."""

    identical: bool
    max_ulp: int
    max_abs: float


def difference(one: NDArray[Any], other: NDArray[Any]) -> Difference:
    """Compare two float32 arrays of the same shape; units are float32's."""
    if one.tobytes() == other.tobytes():
        return Difference(True, 0, 0.0)
    steps = np.abs(_ordered(one) - _ordered(other))
    return Difference(False, int(steps.max()), float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)))))


def _ordered(values: NDArray[Any]) -> NDArray[Any]:
    """Integers that count float32 numbers in their order, through zero."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    result: NDArray[Any] = np.where(bits < 0, -(bits & 0x7FFF_FFFF), bits)
    return result


def digest(values: NDArray[Any]) -> str:
    """sha256 of an array's bytes, little-endian, in C order."""
    plain = values if values.dtype.byteorder != ">" else values.astype(values.dtype.newbyteorder("<"))
    return hashlib.sha256(np.ascontiguousarray(plain).tobytes()).hexdigest()


def update_distance(
    factors: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], others: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
) -> float:
    """||B R A - B' R' A'|| over ||B R A|| for (A, B, R) and (A', B', R'), without forming them; of B A where R is zero.

    A (r, in), B (out, r), R (r, r): the difference is a product of rank 2r.
    """
    (A, B, R), (other_a, other_b, other_r) = factors, others
    if not np.any(R):
        R = other_r = np.eye(len(R))
    left, other = left_factor(B, R), left_factor(other_b, other_r)
    right, other_right = A.astype(np.float64), other_a.astype(np.float64)
    whole = squared_norm(left, right)
    off = squared_norm(np.concatenate([left - other, other], 1), np.concatenate([right, right - other_right], 0))
    return float(np.sqrt(off / whole)) if whole > 0 else 0.0
