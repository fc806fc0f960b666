"""Where a new adapter's vectors start: alike everywhere, each apart from the others."""

from __future__ import annotations

import numpy as np

from tinylora_tools.core.initial import uniform_vector


def test_vectors_are_uniform_within_their_bound_and_never_change() -> None:
    v = uniform_vector(1000, 0.02, 0, 3)
    assert v.dtype == np.float32
    assert 0.019 < float(np.abs(v).max()) <= 0.02
    assert abs(float(v.mean())) < 0.002
    assert np.array_equal(v, uniform_vector(1000, 0.02, 0, 3))
    assert np.allclose(uniform_vector(3, 1.0, 0, 0), [0.27392337, -0.46042657, -0.91805297], atol=1e-7)


def test_groups_and_seeds_are_told_apart() -> None:
    drawn = [uniform_vector(4, 1.0, seed, group).tobytes() for seed in (0, 1) for group in (0, 1)]
    assert len(set(drawn)) == 4
