"""The trained vectors that a new adapter starts from, drawn alike everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def uniform_vector(u: int, bound: float, init_seed: int, group: int) -> NDArray[Any]:
    """v of a group (u,), float32, uniform within [-bound, bound].

    It is drawn from the stream (init_seed, group) of NumPy's PCG64, so that it doesn't depend on the others.
    """
    rng = np.random.Generator(np.random.PCG64([init_seed, group]))
    return rng.uniform(-bound, bound, u).astype(np.float32)
