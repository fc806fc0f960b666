"""Sums of updates: the rank before padding, and one rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixture_data import fixture

from tinylora_tools import load_adapter
from tinylora_tools.ops.convert.lora_factors import summed

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("padded", [True, False])
def test_factors_multiply_to_the_sum(padded: bool, tmp_path: Path) -> None:
    cases = [fixture("peft021-13-numbers"), fixture("peft021-layers")]
    loaded = [load_adapter(case.adapter, case.base) for case in cases]
    found = summed(loaded, [1.0, -0.5], "float32", None, padded=padded)
    assert found.rank == 4
    for module, factors in found.factors.items():
        both = module in cases[1].modules_by_name
        assert found.ranks[module] == (4 if both else 2)
        assert len(factors.right) == (4 if padded else found.ranks[module])
        exact = cases[0].delta(module) - (0.5 * cases[1].delta(module) if both else 0.0)
        product = factors.left.astype(np.float64) @ factors.right
        assert np.abs(product - exact).max() <= 1e-6 * np.abs(exact).max()
