"""Factors whose entries are the same on every machine, but for those that are named. Letters as in `lowrank`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Canonical:
    """A (r, in) and B (out, r) in float32, and where they may come out otherwise on another machine."""

    A: NDArray[Any]
    B: NDArray[Any]
    unsure_a: NDArray[Any]
    unsure_b: NDArray[Any]

    def signed(self, flipped: NDArray[Any]) -> Canonical:
        """With the pairs flipped that `flipped` (r,) names."""
        sign = np.where(flipped, -1.0, 1.0).astype(np.float32)
        return Canonical(self.A * sign[:, None], self.B * sign, self.unsure_a, self.unsure_b)
