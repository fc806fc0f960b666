"""What a check says of two arrays, bit by bit."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from tinylora_tools.core.compare import difference
from tinylora_tools.ops.verify.check import Check


def test_distances() -> None:
    one = np.array([1.0, -0.0, 0.0, -1e-45], np.float32)
    assert difference(one, one.copy()) == (True, 0, 0.0)
    other = np.array([np.nextafter(np.float32(1), np.float32(2)), 0.0, 0.0, 1e-45], np.float32)
    found = difference(one, other)
    assert (found.identical, found.max_ulp) == (False, 2)
    assert found.max_abs == float(other[0]) - 1.0


def test_a_check_is_as_json_has_it() -> None:
    one = np.array([1.0, 2.0], np.float32)
    found = Check("P", "cpu", None, False, *difference(one, np.array([1.0, 2.5], np.float32)), note="off")
    assert asdict(found) == {
        "name": "P", "device": "cpu", "stream": None, "ok": False, "identical": False, "max_ulp": 2**21,
        "max_abs": 0.5, "note": "off", "digest": None, "hint": None,
    }  # fmt: skip
