"""P against vectors that torch wrote, and against the installed torch at each CPU capability: no bit differs."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
from math import pi
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylora_tools.core import float32_math
from tinylora_tools.core.projection import STREAMS, draw, draw_many, round_to
from tinylora_tools.errors import TinyLoraError

VECTORS = json.loads((Path(__file__).parent / "projection_vectors.json").read_text())["streams"]
STREAM_OF = {"DEFAULT": "torch-cpu-scalar", "AVX2": "torch-cpu-avx2", "AVX512": "torch-cpu-avx2"}
HERE = STREAM_OF.get(torch.backends.cpu.get_cpu_capability()) if os.uname().machine == "x86_64" else None
on_x86 = pytest.mark.skipif(HERE is None, reason="torch's arithmetic on this CPU has no name yet")


@pytest.mark.parametrize("stream", VECTORS)
def test_vectors(stream: str) -> None:
    for seed, u, r, float32, bfloat16 in VECTORS[stream]:
        P = draw(seed, u, r, stream=stream)
        assert P.shape == (u, r, r)
        assert hashlib.sha256(P.astype("<f4").tobytes()).hexdigest() == float32, (seed, u, r)
        narrow = P.astype(ml_dtypes.bfloat16)
        assert hashlib.sha256(narrow.tobytes()).hexdigest() == bfloat16
        assert round_to(P, "bfloat16").tobytes() == narrow.astype(np.float32).tobytes()


_TORCH = """
import sys, torch
n, u, r, first = map(int, sys.argv[1:])
for seed in range(first, first + n):
    P = torch.normal(mean=0.0, std=1 / r**0.5, size=(u, r, r), generator=torch.Generator().manual_seed(seed))
    sys.stdout.buffer.write(P.numpy().tobytes())
"""


@on_x86
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_torch_at_each_capability(capability: str) -> None:
    """Half a million values or more each: fewer than 16, a multiple of 16, and neither."""
    for n, u, r, first in ((2500, 64, 2, 0), (300, 13, 3, -150), (300, 13, 1, 7), (200, 64, 4, 2**32 - 100)):
        command = [sys.executable, "-c", _TORCH, *map(str, (n, u, r, first))]
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        expected = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
        P = draw_many(range(first, first + n), u, r, stream=STREAM_OF[capability.upper()])
        assert np.count_nonzero(P.reshape(-1) != np.frombuffer(expected, np.float32)) == 0


@on_x86
@settings(max_examples=60, deadline=None)
@given(st.integers(-(2**63), 2**64 - 1), st.integers(1, 70), st.integers(1, 6))
def test_this_machines_torch(seed: int, u: int, r: int) -> None:
    assert HERE is not None
    assert draw(seed, u, r, stream=HERE).tobytes() == draw(seed, u, r, stream="torch").tobytes()


@pytest.mark.parametrize("stream", STREAMS)
def test_many_are_drawn_as_one(stream: str) -> None:
    seeds = [3, -1, 2**40 + 5, 3]
    many = draw_many(seeds, 130, 3, stream=stream)
    for seed, P in zip(seeds, many, strict=True):
        assert P.tobytes() == draw(seed, 130, 3, stream=stream).tobytes()


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = draw_many(range(50), 40, 3).tobytes()
    monkeypatch.setattr("tinylora_tools.core.projection._CHUNK_WORDS", 3000)
    assert draw_many(range(50), 40, 3).tobytes() == expected


@pytest.mark.parametrize(
    ("seeds", "u", "r", "stream", "message"),
    [
        ([1], 0, 2, STREAMS[0], "u=0 and r=2"),
        ([1], 2, -1, STREAMS[0], "r=-1"),
        ([1], 1, 1, "torch-cuda", "no stream"),
        ([2**64], 1, 1, STREAMS[0], "out of range"),
        ([-(2**63) - 1], 1, 1, STREAMS[0], "out of range"),
        ([1], 10**9, 10**5, STREAMS[0], "bytes"),
    ],
)
def test_refuses_before_it_allocates(seeds: list[int], u: int, r: int, stream: str, message: str) -> None:
    with pytest.raises(TinyLoraError, match=message) as caught:
        draw_many(seeds, u, r, stream=stream)
    assert caught.value.hint


def test_fused_multiply_add_is_rounded_once() -> None:
    """Against exact rational arithmetic, on sums that float64 puts on the middle between two float32 numbers."""
    from fractions import Fraction

    rng = np.random.default_rng(0)
    a, b = (rng.integers(1, 2**24, 20_000).astype(np.float32) for _ in range(2))
    c = (np.ldexp(rng.integers(1, 2**24, 20_000), rng.integers(-80, 80, 20_000))).astype(np.float32)
    found = float32_math._fma(a, b, c)
    for x, y, z, got in zip(a[:3000], b[:3000], c[:3000], found[:3000], strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        near = [np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))]
        error = abs(Fraction(float(got)) - exact)
        assert all(error <= abs(Fraction(float(other)) - exact) for other in near)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or HERE is None, reason="needs the GNU C library on x86-64")
def test_every_argument_that_can_occur_agrees_with_the_c_library() -> None:
    """log of all 2^24 values of u1, and sin and cos of all 2^24 angles."""
    libm = ctypes.CDLL("libm.so.6")
    step = np.arange(2**24, dtype=np.float32) * np.float32(2.0**-24)
    angles = (2 * pi * step.astype(np.float64)).astype(np.float32)
    sine, cosine = float32_math.glibc_sincos(angles)
    for name, values, ours in (
        ("logf", np.float32(1) - step, float32_math.glibc_log(np.float32(1) - step)),
        ("sinf", angles, sine),
        ("cosf", angles, cosine),
    ):
        function = getattr(libm, name)
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
        theirs = np.fromiter((function(x) for x in values.tolist()), np.float32, len(values))
        assert np.count_nonzero(ours.view(np.int32) != theirs.view(np.int32)) == 0, name
