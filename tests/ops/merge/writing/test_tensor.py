"""One tensor of a merge, in blocks: the sums, and what they tell the report, against float64."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from fixture_data import Fixture, fixture
from safetensors.numpy import save_file
from safetensors.torch import load_file

from tinylora_tools import load_adapter, merge
from tinylora_tools.bases.base import open_base
from tinylora_tools.core.block_sum import NumpyBlockAdder, work_dtype
from tinylora_tools.core.residual import Triplets, residual_of
from tinylora_tools.errors import MismatchError
from tinylora_tools.formats.memory_file import MemoryFile
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.formats.tensors import DTYPE_OF, TensorInfo
from tinylora_tools.ops.merge.plan import plan_merge
from tinylora_tools.ops.merge.words import Outcome, Source
from tinylora_tools.ops.merge.writing.tensor import OpenSource, TensorJob

Array = np.ndarray[Any, Any]


def run(job: TensorJob, blocks: Sequence[int]) -> bytes:
    """All rows, cut at `blocks`."""
    cuts, found = [0, *blocks, job.rows], b""
    for first, last in pairwise(cuts):
        elements = (last - first) * job.columns
        buffers = [np.empty(8 * elements, np.uint8) for _ in range(2)]
        block, data = job.run(first, last, NumpyBlockAdder(elements, job.work_dtype), *buffers)
        job.collect(block)
        found += bytes(data)
    return found


def jobs(case: Fixture, dtype: str = "auto") -> list[TensorJob]:
    at = open_base(case.base)
    plan = plan_merge(at, [load_adapter(case.adapter, at)], [1.0], dtype=dtype)
    return [
        TensorJob(info, outcome, OpenSource(outcome.source.file), True)
        for file in plan.files
        for info, outcome in file.tensors
        if outcome.updates
    ]


def converted(path: Path, values: Array, dtype: str) -> TensorJob:
    """A job that only converts a tensor."""
    save_file({"W": values}, path)
    file = read_header(path)
    info = TensorInfo("W", DTYPE_OF[dtype], values.shape, 0, values.size * np.dtype(work_dtype(values.dtype)).itemsize)
    return TensorJob(info, Outcome(Source(file, file.tensors["W"])), OpenSource(file), False)


@pytest.mark.parametrize("name", ["peft021-13-numbers", "peft020-gpt2", "peft021-named"])
def test_sums_and_figures_are_those_of_float64_wherever_it_is_cut(name: str) -> None:
    case = fixture(name)
    for whole, cut in list(zip(jobs(case), jobs(case), strict=True))[::5]:
        data = run(whole, [])
        assert run(cut, [1, 4, whole.rows - 3]) == data
        source = whole.outcome.source
        W = source.file.read(source.tensor.name).reshape(whole.rows, -1)
        update = whole.outcome.updates[0]
        delta = case.delta(update.module)
        delta = delta.T if update.transposed else delta
        merged = np.frombuffer(data, whole.out_dtype).reshape(W.shape).astype(np.float64)
        for job in (whole, cut):
            result = job.result()
            assert result.tensor == job.info.name
            assert result.delta == pytest.approx(np.sum(delta**2), rel=1e-9)
            error = np.sum((merged - W.astype(np.float64) - delta) ** 2)
            assert result.error == pytest.approx(error, rel=1e-3, abs=1e-12 * result.delta)
            A, B = (case.live[f"{update.module}.{part}"] for part in "AB")
            triplets = Triplets.from_factors(A, B, job.work_dtype)
            expected = residual_of(W, triplets.transposed() if update.transposed else triplets)
            assert result.checks[0].rho == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_conversions_are_numpy_s_for_every_shape(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    job = converted(tmp_path / "f.safetensors", np.asarray(values), dtype)
    narrow = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    assert job.rows * job.columns == values.size
    assert run(job, range(1, job.rows)) == values.astype(narrow).tobytes()


@pytest.mark.parametrize(
    ("value", "dtype", "said", "hint"),
    [
        (1e6, "float16", "rows 2 to 3: the result overflows float16",
         "Merge with dtype='bfloat16' or dtype='float32'."),
        (3.4e38, "bfloat16", "rows 2 to 3: the result holds NaN or Inf",
         "Check the adapter's factors, P and v, and scale."),
    ],
)  # fmt: skip
def test_what_overflows_is_refused_with_its_rows(
    value: float, dtype: str, said: str, hint: str, tmp_path: Path
) -> None:
    values = np.ones((6, 2), np.float32)
    values[3, 1] = value
    with pytest.raises(MismatchError, match=f"W: {said}") as caught:
        run(converted(tmp_path / "f.safetensors", values, dtype), [2, 4])
    assert caught.value.hint == hint


def test_nan_is_the_base_s_where_it_has_any() -> None:
    """And is copied where nothing is added to it."""
    case = fixture("peft021-scalar")
    job = jobs(case)[0]
    name = job.outcome.source.tensor.name
    W = job.outcome.source.file.read(name)
    W[5, 2] = np.nan
    file = MemoryFile(case.base, {name: W})
    source = Source(file, file.tensors[name])
    with pytest.raises(MismatchError, match="rows 4 to 7: the base's weights hold NaN or Inf"):
        run(TensorJob(job.info, Outcome(source, job.outcome.updates), OpenSource(file), True), [4, 8])
    plain = run(TensorJob(job.info, Outcome(source), OpenSource(file), True), [4, 8])
    assert plain == W.tobytes()


def test_pickled_weights_whose_elements_are_not_in_a_row(tmp_path: Path) -> None:
    """Turned over, as a transposed view is saved: the same model comes of them."""
    case = fixture("peft021-layers")
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(case.base / "config.json", base)
    state = load_file(case.base / "model.safetensors")
    turned = {name: value.T.contiguous().T if value.ndim == 2 else value for name, value in state.items()}
    assert not all(value.is_contiguous() for value in turned.values())
    torch.save(turned, base / "pytorch_model.bin")
    merge(case.adapter, tmp_path / "turned", base)
    merge(case.adapter, tmp_path / "straight", case.base)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("turned", "straight"))
    assert all(torch.equal(one[name], values) for name, values in other.items())
