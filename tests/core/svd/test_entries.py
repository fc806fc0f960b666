"""Signs of canonical factors."""

from __future__ import annotations

import numpy as np

from tinylora_tools.core.svd.entries import Canonical


def test_pairs_are_flipped_whole() -> None:
    A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(8, dtype=np.float32).reshape(4, 2)
    none = Canonical(A, B, np.zeros((2, 3), bool), np.zeros((4, 2), bool))
    found = none.signed(np.array([True, False]))
    assert np.array_equal(found.A, [-A[0], A[1]])
    assert np.array_equal(found.B.T, [-B[:, 0], B[:, 1]])
    assert np.array_equal(found.B @ found.A, B @ A)
    assert (found.A.dtype, found.unsure_a is none.unsure_a) == (np.float32, True)
