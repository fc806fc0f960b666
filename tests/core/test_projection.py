"""P against vectors that torch wrote, and against the installed torch at each CPU capability: no bit differs."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from math import pi
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinylora_tools.core.streams import float32_math
from tinylora_tools.core.streams.projection import STREAMS, draw, draw_many, round_to
from tinylora_tools.errors import TinyLoraError

VECTORS = json.loads((Path(__file__).parent / "projection_vectors.json").read_text())["streams"]
STREAM_OF = {"DEFAULT": "torch-cpu-scalar", "AVX2": "torch-cpu-avx2", "AVX512": "torch-cpu-avx2"}
CAPABILITY = torch.backends.cpu.get_cpu_capability().replace("NO AVX", "DEFAULT")  # as torch 2.6 calls it
KNOWN = sys.platform == "linux" and platform.machine() == "x86_64" and CAPABILITY in STREAM_OF
where_known = pytest.mark.skipif(not KNOWN, reason=f"no stream is named for {CAPABILITY} on {platform.platform()}")
# A CPU can be told to do less than it can, not more.
CAPABILITIES = list(STREAM_OF)[: list(STREAM_OF).index(CAPABILITY) + 1] if KNOWN else []

STREAM = st.sampled_from(STREAMS)


def differing(found: NDArray[Any], expected: NDArray[Any]) -> int:
    """How many float32 values differ in any bit, the sign of zero included."""
    assert found.size == expected.size
    return int(np.count_nonzero(found.reshape(-1).view(np.uint32) != expected.reshape(-1).view(np.uint32)))


def torch_at(capability: str, script: str, *arguments: object, words: NDArray[Any] | None = None) -> NDArray[Any]:
    """The float32 values that a script prints in a process whose torch has that CPU capability."""
    found = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability.lower(), "OMP_NUM_THREADS": "1"},
        input=None if words is None else words.tobytes(),
        capture_output=True,
        check=True,
    ).stdout
    return np.frombuffer(found, np.float32)


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


def test_fused_multiply_add_is_rounded_once() -> None:
    """Against exact rational arithmetic: anywhere, and where float64 rounds onto the middle of two float32 numbers."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(1, 2**24, 3000).astype(np.float32) for _ in range(2))
    c = (np.ldexp(rng.integers(1, 2**24, 3000), rng.integers(-80, 80, 3000))).astype(np.float32)
    # 5 times an odd number from 2^24 / 5 to 2^25 / 5 is a middle; what is added is too small for float64.
    odd = (2 * rng.integers(2**23 // 5 + 1, 2**24 // 5, 1000) + 1).astype(np.float32)
    a, b = np.concatenate([a, np.full(1000, 5, np.float32)]), np.concatenate([b, odd])
    c = np.concatenate([c, (rng.choice([-1, 0, 1], 1000) * 2.0**-60).astype(np.float32)])
    twice_rounded = (a.astype(np.float64) * b + c).astype(np.float32)
    found = float32_math._fma(a, b, c)
    assert differing(found, twice_rounded) > 100
    for x, y, z, got in zip(a, b, c, found, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        near = [np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))]
        errors = [abs(Fraction(float(other)) - exact) for other in (got, *near)]
        assert errors[0] == min(errors)
        if errors.count(errors[0]) > 1:
            assert got.view(np.uint32) % 2 == 0  # a true middle goes to the even one


STEPS = np.arange(2**24, dtype=np.uint32)  # every value that a float32 uniform is made of


def radius_and_angle_functions(stream: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The radius of every u1, and sine and cosine of every angle, (2^24,) each."""
    uniform = STEPS.astype(np.float32) * np.float32(2.0**-24)
    if stream == "torch-cpu-avx2":
        log = float32_math.avx2_log(np.float32(1) - uniform)
        sine, cosine = float32_math.avx2_sincos(np.float32(2 * pi) * uniform)
    else:
        log = float32_math.glibc_log(np.float32(1) - uniform)
        sine, cosine = float32_math.glibc_sincos((2 * pi * uniform.astype(np.float64)).astype(np.float32))
    return np.sqrt(np.float32(-2) * log), sine, cosine


def untempered(y: NDArray[Any]) -> NDArray[Any]:
    """The words of MT19937's state that come out as `y`."""
    y = y ^ (y >> 18)
    y ^= (y << 15) & np.uint32(0xEFC60000)
    seven = y
    for _ in range(4):
        seven = y ^ ((seven << 7) & np.uint32(0x9D2C5680))
    eleven = seven
    for _ in range(2):
        eleven = seven ^ (eleven >> 11)
    return eleven


# 608 words at a time (38 blocks of 16) become the state of a torch.Generator, which is: the seed, how many words are
# left, whether it was seeded, the next word's number, and 624 words of 64 bits.
FROM_STATES = """
import sys, numpy as np, torch
rows = np.frombuffer(sys.stdin.buffer.read(), np.uint32).reshape(-1, 608)
generator = torch.Generator().manual_seed(1)
state = generator.get_state()
raw = state.numpy()
raw[8:16].view(np.int32)[:] = 624, 1
raw[16:24].view(np.uint64)[:] = 0
words = raw[24 : 24 + 8 * 608].view(np.uint64)
for row in rows:
    words[:] = row
    generator.set_state(state)
    P = torch.normal(mean=0.0, std=float(sys.argv[1]), size=(608,), generator=generator)
    sys.stdout.buffer.write(P.numpy().tobytes())
"""


def torch_from_words(
    capability: str, first: NDArray[Any], second: NDArray[Any], std: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What torch makes of uniform words: radius times cosine, and radius times sine, for each pair."""
    blocks = np.concatenate([first.reshape(-1, 8), second.reshape(-1, 8)], axis=1)
    padded = np.concatenate([blocks, np.zeros((-len(blocks) % 38, 16), np.uint32)])
    found = torch_at(capability, FROM_STATES, std, words=untempered(padded)).reshape(-1, 16)[: len(blocks)]
    return found[:, :8].ravel(), found[:, 8:].ravel()


@pytest.mark.slow
@where_known
@pytest.mark.parametrize("capability", STREAM_OF)
def test_every_uniform_value_in_torch(capability: str) -> None:
    """Generator states made to order show torch's radius for all 2^24 values of u1, and sine and cosine for all angles.

    With the angle 0 the radius alone comes out, and with the radius 1 the sine and cosine alone.
    """
    if capability not in CAPABILITIES:
        pytest.skip(f"this CPU has no {capability}")
    radius, sine, cosine = radius_and_angle_functions(STREAM_OF[capability])
    zero = np.float32(0)
    x, y = torch_from_words(capability, STEPS, np.zeros_like(STEPS), 1.0)
    assert differing(x, radius + zero) == differing(y, np.zeros_like(y)) == 0
    one = STEPS[radius == 1][0]
    x, y = torch_from_words(capability, np.full_like(STEPS, one), STEPS, 1.0)
    assert differing(x, cosine + zero) == differing(y, sine + zero) == 0
    rng = np.random.default_rng(0)
    first, second = rng.permutation(STEPS), rng.permutation(STEPS)
    std = 1 / 3**0.5
    x, y = torch_from_words(capability, first, second, std)
    assert differing(x, radius[first] * cosine[second] * np.float32(std) + zero) == 0
    assert differing(y, radius[first] * sine[second] * np.float32(std) + zero) == 0


@pytest.mark.slow
@where_known
def test_every_uniform_value_in_the_c_library() -> None:
    """log of all 2^24 values of u1, and sine and cosine of all 2^24 angles."""
    libm = ctypes.CDLL("libm.so.6")
    uniform = STEPS.astype(np.float32) * np.float32(2.0**-24)
    angles = (2 * pi * uniform.astype(np.float64)).astype(np.float32)
    sine, cosine = float32_math.glibc_sincos(angles)
    for name, values, ours in (
        ("logf", np.float32(1) - uniform, float32_math.glibc_log(np.float32(1) - uniform)),
        ("sinf", angles, sine),
        ("cosf", angles, cosine),
    ):
        function = getattr(libm, name)
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
        theirs = np.fromiter((function(x) for x in values.tolist()), np.float32, len(values))
        assert differing(ours, theirs) == 0, name
