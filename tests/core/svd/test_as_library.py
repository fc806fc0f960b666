"""Factors as PEFT's own layers compute them here, and whether others have their signs."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from small_model import SmallModel

from tinylora_tools.core.svd.as_library import library_factors, same_signs
from tinylora_tools.core.torch_arrays import array_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_factors_are_those_that_peft_computes_here(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    model = SmallModel().to(dtype)
    adapted = peft.get_peft_model(model, peft.TinyLoraConfig(r=3, u=1, target_modules=["layer.0", "layer.1"]))
    for name in ("0", "1"):
        layer = adapted.get_submodule(f"base_model.model.layer.{name}")
        A, B = library_factors(layer.base_layer.weight.detach(), 3)
        assert A.tobytes() == array_of(layer.tinylora_A["default"]).tobytes()
        assert B.tobytes() == array_of(layer.tinylora_B["default"]).tobytes()


def test_turned_pairs_are_told() -> None:
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((3, 5)), rng.standard_normal((7, 3))
    sign = np.array([1.0, -1.0, 1.0])
    near = 1 + 1e-3 * rng.standard_normal((3, 5))
    assert same_signs(A, B, A * sign[:, None] * near, B * sign).tolist() == [True, False, True]
