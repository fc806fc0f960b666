"""Which way round a weight is stored: by the layer's type, else its shape, else the weight itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_data import FIXTURES, Fixture
from numpy.typing import NDArray

from tinylora_tools.bases.base import Base
from tinylora_tools.bases.orientation import is_transposed
from tinylora_tools.bases.tensor_names import BaseNames
from tinylora_tools.core.residual import Triplets
from tinylora_tools.errors import MismatchError, UndeterminedError
from tinylora_tools.formats.checkpoint import Checkpoint
from tinylora_tools.formats.memory_file import MemoryFile

Array = NDArray[Any]


def of_nobody(**weights: Array) -> BaseNames:
    """A base whose architecture nobody knows."""
    held = {f"{name}.weight": W for name, W in weights.items()}
    return BaseNames(Checkpoint(Path("base"), None, (MemoryFile(Path("base"), held),), dict.fromkeys(held, 0)), None)


def triplets(W: Array, r: int = 2) -> Triplets:
    U, S, Vh = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    return Triplets(U[:, :r], S[:r], Vh[:r])


def never() -> Triplets:
    raise AssertionError("the type or the shape decides")


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_conv1d_alone_is_stored_the_other_way_round(case: Fixture) -> None:
    """Square ones too; whatever fan_in_fan_out says, which is wrong in some of these."""
    base = Base(case.base)
    names = BaseNames(base.checkpoint, base.architecture)
    for row in case.modules:
        A, B = case.live[f"{row['name']}.A"], case.live[f"{row['name']}.B"]
        key = names.group(f"{row['name']}.weight").stored
        found = is_transposed(names, row["name"], (B.shape[0], A.shape[1]), key, triplets=never)
        assert found == (row["kind"] == "Conv1D"), row["name"]


def test_without_a_type_the_shape_decides() -> None:
    names = of_nobody(a=np.zeros((3, 5), np.float32))
    assert not is_transposed(names, "a", (3, 5), "a.weight", triplets=never)
    assert is_transposed(names, "a", (5, 3), "a.weight", triplets=never)
    with pytest.raises(MismatchError) as caught:
        is_transposed(names, "a", (5, 4), "a.weight", triplets=never)
    assert str(caught.value) == "base: a: the adapter's factors are for a weight of shape (5, 4), a.weight is (3, 5)"


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_a_square_weight_of_no_type_has_the_adapter_s_singular_vectors(dtype: Any) -> None:
    W = np.random.default_rng(0).standard_normal((24, 24)).astype(dtype)
    names = of_nobody(a=W)
    assert not is_transposed(names, "a", W.shape, "a.weight", triplets=lambda: triplets(W))
    assert is_transposed(names, "a", W.shape, "a.weight", triplets=lambda: triplets(W.T))
    other = np.random.default_rng(1).standard_normal((24, 24))
    assert is_transposed(names, "a", W.shape, "a.weight", triplets=lambda: triplets(other.T), weight=lambda: other)


def test_a_weight_that_fits_neither_way_or_both_decides_nothing() -> None:
    rng = np.random.default_rng(0)
    W, other = rng.standard_normal((2, 24, 24))
    symmetric = W + W.T + 40 * np.eye(24)  # positive, so that its left singular vectors are the right ones
    for stored, of in ((W, other), (symmetric, symmetric)):
        with pytest.raises(UndeterminedError, match="the weight doesn't tell which way round it is stored"):
            is_transposed(of_nobody(a=stored), "a", (24, 24), "a.weight", triplets=lambda of=of: triplets(of))


def test_factors_of_a_conv1d_are_told_in_its_own_shape() -> None:
    case = next(case for case in FIXTURES if case.name == "peft020-gpt2")
    base = Base(case.base)
    names = BaseNames(base.checkpoint, base.architecture)
    name = "transformer.h.0.attn.c_attn"
    key = names.group(f"{name}.weight").stored  # (32, 96)
    with pytest.raises(MismatchError, match=r"are for a weight of shape \(32, 95\), .* is \(32, 96\)"):
        is_transposed(names, name, (95, 32), key, triplets=never)
