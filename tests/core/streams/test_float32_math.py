"""log, sin and cos in single precision: rounded as promised, and bit for bit torch's and the C library's."""

from __future__ import annotations

import ctypes
import platform
import sys
from fractions import Fraction
from math import pi
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch_streams import CAPABILITIES, STREAM_OF, differing, torch_at, where_known

from tinylora_tools.core.streams import float32_math


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


def off_by(found: NDArray[Any], exact: NDArray[Any]) -> float:
    """The largest error in units in the last place of the exact value."""
    return float(np.max(np.abs(found.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(np.float32))))


U = np.random.default_rng(1).integers(1, 2**24 + 1, 20_000).astype(np.float32) * np.float32(2.0**-24)
ANGLES = np.float32(2 * pi) * (1 - U)


@pytest.mark.parametrize(("log", "bound"), [(float32_math.avx2_log, 4.0), (float32_math.glibc_log, 0.82)])
def test_logarithms_are_near_the_exact_ones(log: Any, bound: float) -> None:
    assert np.array_equal(log(np.ones(1, np.float32)), np.zeros(1, np.float32))
    below = U[U < 1]
    assert off_by(log(below), np.log(below.astype(np.float64))) <= bound


@pytest.mark.parametrize("sincos", [float32_math.avx2_sincos, float32_math.glibc_sincos])
def test_sine_and_cosine_are_near_the_exact_ones(sincos: Any) -> None:
    sine, cosine = sincos(ANGLES)
    wide = ANGLES.astype(np.float64)
    assert np.max(np.abs(sine - np.sin(wide))) < 1e-7
    assert np.max(np.abs(cosine - np.cos(wide))) < 1e-7
    assert [x.tolist() for x in sincos(np.zeros(1, np.float32))] == [[0.0], [1.0]]


@pytest.mark.skipif(
    (sys.platform, platform.libc_ver()[0]) != ("linux", "glibc"), reason="the C library isn't the GNU one"
)
def test_a_sample_is_the_c_library_s() -> None:
    libm = ctypes.CDLL("libm.so.6")
    sine, cosine = float32_math.glibc_sincos(ANGLES)
    cases = {"logf": (U, float32_math.glibc_log(U)), "sinf": (ANGLES, sine), "cosf": (ANGLES, cosine)}
    for name, (values, ours) in cases.items():
        function = getattr(libm, name)
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
        theirs = np.fromiter((function(x) for x in values.tolist()), np.float32, len(values))
        assert differing(ours, theirs) == 0, name
