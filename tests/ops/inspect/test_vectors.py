"""How large v is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tinylora_tools.ops.inspect.vectors import size_of


def test_sizes_are_those_of_all_numbers() -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal(32).astype(ml_dtypes.bfloat16) * np.float32(5e-5) for _ in range(3)]
    vectors[0] = vectors[0].astype(ml_dtypes.bfloat16)
    values = np.concatenate([v.astype(np.float64) for v in vectors])
    found = size_of(vectors)
    assert found is not None
    assert found.dtypes == ["bfloat16", "float32"]
    assert found.rms == pytest.approx(np.linalg.norm(values) / np.sqrt(values.size))
    assert (found.largest, found.zero, found.not_finite) == (np.abs(values).max(), 0, 0)


def test_none_nothing_trained_and_no_numbers() -> None:
    assert size_of([]) is None
    untrained = size_of([np.zeros(13, np.float32)])
    assert untrained is not None
    assert (untrained.rms, untrained.largest, untrained.zero) == (0.0, 0.0, 13)
    broken = size_of([np.array([np.nan, np.inf, 3.0])])
    assert broken is not None
    assert (broken.rms, broken.largest, broken.not_finite) == (3.0, 3.0, 2)
