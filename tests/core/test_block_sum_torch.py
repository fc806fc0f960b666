"""Blocks summed by torch: NumPy's bytes, and the same words of them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from tinylora_tools.core.block_sum import NumpyBlockAdder, work_dtype
from tinylora_tools.core.block_sum_torch import TorchBlockAdder
from tinylora_tools.core.residual import Triplets
from tinylora_tools.errors import UnsupportedError

DTYPES = [np.dtype(name) for name in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("result", DTYPES, ids=str)
@pytest.mark.parametrize("stored", DTYPES[:3], ids=str)
def test_the_bytes_are_numpy_s(stored: np.dtype[Any], result: np.dtype[Any], device: str) -> None:
    """From each stored dtype to each result, and the report along with them."""
    rng, work = np.random.default_rng(8), work_dtype(result)
    W = rng.standard_normal((33, 600)).astype(stored)
    left, right = (rng.standard_normal(shape).astype(work) for shape in ((33, 4), (4, 600)))
    U, S, Vh = np.linalg.svd(rng.standard_normal((50, 600)), full_matrices=False)
    triplets = Triplets(U[:, :2].astype(work), S[:2], Vh[:2].astype(work))
    outs = np.empty((2, 33, 600), result)
    adders = NumpyBlockAdder(W.size, work), TorchBlockAdder(work, torch.device(device))
    mine, theirs = (
        adder.add(W, left, right, out, triplets=[triplets], first=17) for adder, out in zip(adders, outs, strict=True)
    )
    assert outs[0].tobytes() == outs[1].tobytes()
    assert np.any(outs[0] != W.astype(result))
    assert theirs.error == pytest.approx(mine.error, rel=1e-3)
    for a, b in zip(mine.residuals[0], theirs.residuals[0], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)


def test_rows_that_are_not_in_one_piece() -> None:
    rng = np.random.default_rng(9)
    wide = rng.standard_normal((6, 12)).astype(np.float32)
    left, right = rng.standard_normal((6, 1)), rng.standard_normal((1, 6))
    outs = np.empty((2, 6, 6), np.float32)
    NumpyBlockAdder(36, np.dtype(np.float64)).add(wide[:, ::2], left, right, outs[0])
    TorchBlockAdder(np.dtype(np.float64), torch.device("cpu")).add(wide[:, ::2], left, right, outs[1])
    assert outs[0].tobytes() == outs[1].tobytes()


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_result_that_is_not_finite_shows_in_the_error(dtype: np.dtype[Any]) -> None:
    W, out = np.full((1, 2), ml_dtypes.finfo(dtype).max, dtype), np.empty((1, 2), dtype)
    one = np.array([[1.0]], np.float32)
    adder = TorchBlockAdder(np.dtype(np.float32), torch.device("cpu"))
    error = adder.add(W, one, W.astype(np.float32), out).error
    assert np.isinf(out.astype(np.float32)).all()
    assert not np.isfinite(error)


def test_apple_s_gpus_are_refused_what_they_cannot_sum() -> None:
    with pytest.raises(UnsupportedError, match="which Apple's GPUs don't have") as caught:
        TorchBlockAdder(np.dtype(np.float64), torch.device("mps"))
    assert caught.value.hint == "Leave device out to merge on the CPU: the bytes are the same."
