"""Values times the scales of their blocks, against transformers' own dequantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, _dequantize_fp8_weight

from tinylora_tools.core.block_scales import block_of, multiply


def drawn(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "grid", "said", "block"),
    [
        ((256, 384), (2, 3), (128, 128), (128, 128)),
        ((576, 7168), (5, 56), (128, 128), (128, 128)),  # DeepSeek-V3's kv_a_proj_with_mqa, cut off by its edge
        ((200, 128), (2, 1), (128, 128), (128, 128)),  # which blocks of 100 would fit too
        ((200, 128), (2, 1), None, (100, 128)),
        ((64, 64), (64, 2), (128, 128), (1, 32)),  # MXFP8 among blocks of another size
        ((64, 48), (64, 1), (128, 128), (1, 48)),  # a scale for each row
        ((64, 48), (), (128, 128), (64, 48)),  # one for all of it
        ((64, 48), (1,), None, (64, 48)),
        ((3, 64, 48), (1, 1, 1), None, (64, 48)),
        ((3, 64, 48), (3, 2, 2), None, (32, 24)),
    ],
)
def test_blocks(shape: Any, grid: Any, said: Any, block: Any) -> None:
    assert block_of(shape, grid, said) == block


@pytest.mark.parametrize(
    ("shape", "grid", "said"),
    [
        ((576, 128), (5, 1), None),  # no block parts it evenly, and nothing says another
        ((576, 128), (5, 1), (64, 128)),
        ((64, 48), (64,), (128, 128)),
        ((3, 64, 48), (2, 2), (128, 128)),
        ((3, 64, 48), (2, 2, 2), (128, 128)),
        ((64, 48), (0, 1), None),
    ],
)
def test_grids_that_fit_no_blocks(shape: Any, grid: Any, said: Any) -> None:
    assert block_of(shape, grid, said) is None


@pytest.mark.parametrize("shape", [(256, 384), (200, 130), (130, 200), (127, 127), (128, 129), (1, 1), (300, 64)])
@pytest.mark.parametrize("block", [(128, 128), (32, 64), (1, 32), (7, 3)])
def test_products_are_those_of_transformers(shape: tuple[int, int], block: tuple[int, int]) -> None:
    """With blocks that the edges cut off too: as its 8-bit layers take them."""
    values, scales = drawn(*shape), np.abs(drawn(-(-shape[0] // block[0]), -(-shape[1] // block[1]), seed=1))
    expected = _dequantize_fp8_weight(torch.tensor(values), torch.from_numpy(scales), list(block), torch.float32)
    whole = values.copy()
    multiply(whole, scales, block, 0, shape[0])
    assert whole.tobytes() == expected.numpy().tobytes()
    for first in range(0, shape[0], 37):  # rows at a time give the same
        part = values[first : first + 37].copy()
        multiply(part, scales, block, first, shape[0])
        assert part.tobytes() == expected.numpy()[first : first + 37].tobytes()


def test_several_matrices() -> None:
    """Experts in one tensor."""
    values, scales = drawn(3, 64, 96), np.abs(drawn(3, 2, 3, seed=1))
    expected = Fp8Dequantize(None)._dequantize_one(torch.tensor(values), torch.from_numpy(scales), torch.float32)
    rows, of_blocks = values.reshape(-1, 96), scales.reshape(-1, 3)
    for first in range(0, len(rows), 50):
        multiply(rows[first : first + 50], of_blocks, (32, 32), first, 64)
    assert values.tobytes() == expected.numpy().tobytes()
