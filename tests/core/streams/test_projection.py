"""P against vectors that torch wrote, and against the installed torch at each CPU capability: no bit differs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_streams import CAPABILITIES, CAPABILITY, STREAM_OF, differing, torch_at, where_known

from tinylora_tools.core.streams.projection import STREAMS, draw, draw_many, draw_rounded, draw_scaled, round_to
from tinylora_tools.errors import TinyLoraError

VECTORS = json.loads((Path(__file__).parent / "projection_vectors.json").read_text())["streams"]
STREAM = st.sampled_from(STREAMS)


@pytest.mark.parametrize("stream", VECTORS)
def test_vectors(stream: str) -> None:
    for seed, u, r, float32, bfloat16 in VECTORS[stream]:
        P = draw(seed, u, r, stream=stream)
        assert P.shape == (u, r, r)
        assert P.dtype == np.float32
        assert hashlib.sha256(P.astype("<f4").tobytes()).hexdigest() == float32, (seed, u, r)
        narrow = P.astype(ml_dtypes.bfloat16)
        assert hashlib.sha256(narrow.tobytes()).hexdigest() == bfloat16
        assert round_to(P, "bfloat16").tobytes() == narrow.astype(np.float32).tobytes()


def test_vectors_cover_every_path() -> None:
    for stream in STREAMS[:2]:
        sizes = [u * r * r for _, u, r, _, _ in VECTORS[stream]]
        assert any(n < 16 for n in sizes)
        assert any(n > 16 and n % 16 for n in sizes)
        assert any(n % 16 == 0 for n in sizes)


NORMAL = """
import json, sys, torch
for count, u, r, first in json.loads(sys.argv[1]):
    for seed in range(first, first + count):
        P = torch.normal(mean=0.0, std=1 / r**0.5, size=(u, r, r), generator=torch.Generator().manual_seed(seed))
        sys.stdout.buffer.write(P.numpy().tobytes())
"""


@where_known
@pytest.mark.parametrize("capability", STREAM_OF)
def test_torch_at_each_capability(capability: str) -> None:
    """A million values: a multiple of 16, neither, fewer than 16, several states of the generator, and zeros."""
    if capability not in CAPABILITIES:
        pytest.skip(f"this CPU has no {capability}")
    cases = [
        *((2500, 64, 2, 0), (200, 64, 4, 2**32 - 100), (40, 16, 10, 2**63 - 20), (1000, 13, 3, -500), (300, 13, 4, 7)),
        *((300, 23, 1, -(2**63)), (2000, 3, 2, 5), (500, 15, 1, 2**32 - 250), (500, 1, 1, 2**64 - 500)),
        *((1, 32, 2, 282_286), (1, 32, 2, 302_707)),  # a uniform value is 0, so a radius is
    ]
    expected = torch_at(capability, NORMAL, json.dumps(cases))
    assert expected.size > 1_000_000
    drawn = [draw_many(range(f, f + n), u, r, stream=STREAM_OF[capability]).reshape(-1) for n, u, r, f in cases]
    assert differing(np.concatenate(drawn), expected) == 0


@where_known
@settings(max_examples=60, deadline=None)
@given(st.integers(-(2**63), 2**64 - 1), st.integers(1, 70), st.integers(1, 6))
def test_this_machines_torch(seed: int, u: int, r: int) -> None:
    stream = STREAM_OF[CAPABILITY]
    assert draw(seed, u, r, stream=stream).tobytes() == draw(seed, u, r, stream="torch").tobytes()


@given(st.integers(-(2**63), 2**63 - 1), STREAM)
def test_only_the_low_32_bits_of_a_seed_count(seed: int, stream: str) -> None:
    assert draw(seed, 5, 2, stream=stream).tobytes() == draw(seed % 2**32, 5, 2, stream=stream).tobytes()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 2**32 - 1), max_size=5), st.integers(1, 700), st.integers(1, 3), st.sampled_from(STREAMS)
)
def test_many_are_drawn_as_one(seeds: list[int], u: int, r: int, stream: str) -> None:
    many = draw_many(seeds, u, r, stream=stream)
    assert many.shape == (len(seeds), u, r, r)
    for seed, P in zip(seeds, many, strict=True):
        assert P.tobytes() == draw(seed, u, r, stream=stream).tobytes()


@pytest.mark.parametrize("stream", STREAMS[:2])
@pytest.mark.parametrize(("u", "r"), [(3, 2), (40, 3), (300, 4)])
def test_batches_do_not_matter(u: int, r: int, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = draw_many(range(50), u, r, stream=stream).tobytes()
    monkeypatch.setattr("tinylora_tools.core.streams.projection._MODULES", 7)
    monkeypatch.setattr("tinylora_tools.core.streams.projection._VALUES", 300)
    assert draw_many(range(50), u, r, stream=stream).tobytes() == expected


def test_memory_is_bounded_beside_the_result() -> None:
    for seeds, u in (([1], 1 << 19), (range(5000), 128)):
        tracemalloc.start()
        try:
            P = draw_many(seeds, u, 2)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - P.nbytes < 30_000_000


def test_draws_without_torch() -> None:
    script = """
import sys
from tinylora_tools.core.streams.projection import draw, round_to
for stream in ("torch-cpu-avx2", "torch-cpu-scalar"):
    round_to(draw(1, 3, 2, stream=stream), "bfloat16")
    round_to(draw(1, 64, 2, stream=stream), "float16")
print("torch" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rounds_as_torch_does(dtype: str) -> None:
    P = draw(42, 500, 4)
    expected = torch.from_numpy(P).to(getattr(torch, dtype)).float().numpy()
    assert differing(round_to(P, dtype), expected) == 0


@pytest.mark.parametrize(
    ("seeds", "u", "r", "stream", "message"),
    [
        ([1], 0, 2, STREAMS[0], "u=0 and r=2"),
        ([1], 2, -1, STREAMS[0], "r=-1"),
        ([1], 1, 1, "torch-cuda", "no stream"),
        ([2**64], 1, 1, STREAMS[0], "out of range"),
        ([1, -(2**63) - 1], 1, 1, "torch", "out of range"),
        ([1], 10**9, 10**5, STREAMS[0], "bytes"),
        (range(10**6), 10**6, 1, "torch", "bytes"),
    ],
)
def test_refuses_before_it_allocates(seeds: Sequence[int], u: int, r: int, stream: str, message: str) -> None:
    with pytest.raises(TinyLoraError, match=message) as caught:
        draw_many(seeds, u, r, stream=stream)
    assert caught.value.hint


def test_refuses_other_dtypes() -> None:
    with pytest.raises(TinyLoraError, match="int8") as caught:
        round_to(draw(1, 1, 1), "int8")
    assert caught.value.hint


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_drawn_for_a_training_dtype(dtype: str) -> None:
    """As PEFT draws: in float32, then of the weight's dtype where that has 16 bits, then float32 again."""
    other, P = draw_rounded([8, 7], 13, [3, 2], ["float32", dtype], stream="torch")
    assert np.array_equal(other, draw(8, 13, 3, stream="torch"))
    drawn = torch.normal(mean=0.0, std=1 / 2**0.5, size=(13, 2, 2), generator=torch.Generator().manual_seed(7))
    expected = drawn.to(getattr(torch, dtype)).float().numpy()
    assert P.dtype == np.float32
    assert differing(P, expected) == 0


def test_scaled_draws_are_divided_not_drawn_with_a_deviation() -> None:
    """randn / sqrt(r) rounds twice: for r = 3 another last bit than PEFT's here and there, and never more."""
    for stream in STREAMS:
        scaled = draw_scaled([1, 2], 64, 3, stream=stream)
        plain = draw_many([1, 2], 64, 3, stream=stream)
        assert differing(scaled, plain) > 0
        assert np.max(np.abs(scaled - plain) / np.spacing(np.abs(plain))) <= 1
    with pytest.raises(TinyLoraError, match="no stream"):
        draw_scaled([1], 1, 1, stream="torch-cuda")
