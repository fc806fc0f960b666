"""P from a seed, bit for bit as PyTorch draws it, without PyTorch.

PEFT draws the P of a module as `torch.normal(mean=0.0, std=1 / sqrt(r), size=(u, r, r), generator=g)` with
`g = torch.Generator().manual_seed(seed)`. The bits depend on how torch was built and on the CPU, so what is drawn here
is named: a stream is a generator with a fixed arithmetic.

- `torch-cpu-avx2`: x86-64 with AVX2 or AVX-512, where nearly every adapter is trained
- `torch-cpu-scalar`: x86-64 without (ATEN_CPU_CAPABILITY=default), with the GNU C library
- `torch`: whatever the installed torch does on this machine

Source: aten/src/ATen/native/cpu/DistributionTemplates.h (normal_fill), ATen/core/MT19937RNGEngine.h and
ATen/core/DistributionsHelper.h, PyTorch 2.13; Box and Muller (1958).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt
from typing import Any

import numpy as np

from ..errors import TinyLoraError, UnsupportedError
from . import float32_math

Array = np.ndarray[Any, Any]

STREAMS = ("torch-cpu-avx2", "torch-cpu-scalar", "torch")
DEFAULT_STREAM = "torch-cpu-avx2"

#: Bytes of P that one call may draw: beyond, the arguments are a mistake or the memory wouldn't do.
MOST_BYTES = 16 << 30

_WORDS = 624  # of the Mersenne twister's state
_SHIFT = 397
_CHUNK_WORDS = 1 << 19  # of generator state or output at a time: the buffers stay in the cache


def draw(seed: int, u: int, r: int, *, stream: str = DEFAULT_STREAM) -> Array:
    """P (u, r, r) in float32. See `draw_many`."""
    P: Array = draw_many([seed], u, r, stream=stream)[0]
    return P


def draw_many(seeds: Sequence[int], u: int, r: int, *, stream: str = DEFAULT_STREAM) -> Array:
    """P of many modules at once.

    Parameters
    ----------
    seeds : sequence of int
        From -2^63 to 2^64 - 1, as torch takes them. The stream depends on the seed modulo 2^32.
    u, r : int
        The trained vector's length and the rank.
    stream : str
        One of `STREAMS`.

    Returns
    -------
    (n, u, r, r) array of float32

    Raises
    ------
    TinyLoraError
        For arguments out of range, before anything is allocated.
    """
    _check(seeds, u, r, stream)
    if stream == "torch":
        return _draw_with_torch(seeds, u, r)
    n = u * r * r
    out = np.empty((len(seeds), n), np.float32)
    start = np.array([seed % 2**32 for seed in seeds], np.uint32)
    modules = max(1, _CHUNK_WORDS // max(_WORDS, 2 * n))
    for first in range(0, len(seeds), modules):
        chunk = slice(first, first + modules)
        if n < 16:
            out[chunk] = _normal_double(start[chunk], n, 1.0 / sqrt(r))
        else:
            out[chunk] = _normal_float(start[chunk], n, np.float32(1.0 / sqrt(r)), stream)
    return out.reshape(len(seeds), u, r, r)


def round_to(P: Array, dtype: str) -> Array:
    """P rounded to a training dtype, in float32 again: PEFT draws in float32, rounds to the base's dtype, and widens.

    Parameters
    ----------
    P : array of float32
    dtype : "float32", "bfloat16" or "float16"
    """
    if dtype == "float32":
        return P
    import ml_dtypes

    narrow = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}[dtype]
    return P.astype(narrow).astype(np.float32)


def _check(seeds: Sequence[int], u: int, r: int, stream: str) -> None:
    if stream not in STREAMS:
        raise UnsupportedError(f"no stream is named {stream!r}", hint=f"Known streams: {', '.join(STREAMS)}.")
    if u < 1 or r < 1:
        raise TinyLoraError(f"u={u} and r={r} give no P", hint="Both have to be 1 or more.")
    for seed in seeds:
        if not -(2**63) <= seed < 2**64:
            raise TinyLoraError(f"seed {seed} is out of range", hint="torch takes seeds from -2^63 to 2^64 - 1.")
    size = 4 * len(seeds) * u * r * r
    if size > MOST_BYTES:
        raise TinyLoraError(
            f"{len(seeds)} P of u={u}, r={r} would take {size:,} bytes", hint="Check u and r: r is 1 to 16 as a rule."
        )


def _draw_with_torch(seeds: Sequence[int], u: int, r: int) -> Array:
    import torch

    out = np.empty((len(seeds), u, r, r), np.float32)
    for one, seed in zip(out, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        one[...] = torch.normal(mean=0.0, std=1.0 / sqrt(r), size=(u, r, r), generator=generator).numpy()
    return out


def _random_words(seeds: Array, count: int) -> Array:
    """The first `count` outputs of MT19937 for each seed, (count, seeds) uint32 (Matsumoto and Nishimura, 1998)."""
    state = np.empty((_WORDS, len(seeds)), np.uint32)
    state[0] = seeds
    for i in range(1, _WORDS):
        before = state[i - 1]
        np.add(np.uint32(1812433253) * (before ^ (before >> 30)), np.uint32(i), out=state[i])
    blocks = []
    for _ in range(-(-count // _WORDS)):
        # The words depend on each other over a distance of 227 only, so they are made in three strides.
        for first, last in ((0, 227), (227, 454), (454, 623)):
            state[first:last] = state[(first + _SHIFT) % _WORDS :][: last - first] ^ _twisted(
                state[first:last], state[first + 1 : last + 1]
            )
        state[623] = state[396] ^ _twisted(state[623], state[0])
        y = state ^ (state >> 11)
        y ^= (y << 7) & np.uint32(0x9D2C5680)
        y ^= (y << 15) & np.uint32(0xEFC60000)
        blocks.append(y ^ (y >> 18))
    return np.concatenate(blocks)[:count] if len(blocks) > 1 else blocks[0][:count]


def _twisted(upper: Array, lower: Array) -> Array:
    mixed = (upper & np.uint32(0x80000000)) | (lower & np.uint32(0x7FFFFFFF))
    result: Array = (mixed >> 1) ^ ((mixed & np.uint32(1)) * np.uint32(0x9908B0DF))
    return result


def _normal_double(seeds: Array, n: int, std: float) -> Array:
    """Fewer than 16 values: torch draws them one by one in double precision, in pairs. (seeds, n) float32."""
    pairs = -(-n // 2)
    words = _random_words(seeds, 4 * pairs).astype(np.uint64)  # (4 pairs, seeds)
    random = (words[0::2] << np.uint64(32)) | words[1::2]
    uniform = (random & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53  # (2 pairs, seeds)
    radius = np.sqrt(-2.0 * np.log1p(-uniform[1::2]))
    angle = 2.0 * pi * uniform[0::2]
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(2 * pairs, len(seeds))
    result: Array = (values[:n].T * std).astype(np.float32)
    return result


def _normal_float(seeds: Array, n: int, std: np.float32, stream: str) -> Array:
    """16 values or more: blocks of 16 in single precision; what is left over is redrawn as a block that ends with the
    last value, over the one before. (seeds, n) float32."""
    extra = 16 if n % 16 else 0
    words = _random_words(seeds, n + extra)
    uniform = np.ascontiguousarray(((words & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)).T)
    out = np.empty((len(seeds), n), np.float32)
    whole = n - n % 16
    out[:, :whole] = _box_muller(uniform[:, :whole], std, stream)
    if extra:
        out[:, n - 16 :] = _box_muller(uniform[:, n:], std, stream)
    return out


def _box_muller(uniform: Array, std: np.float32, stream: str) -> Array:
    """Each 16 uniform values of a row make 16 normal ones: j with j + 8."""
    blocks = uniform.reshape(len(uniform), -1, 16)
    u1, u2 = np.float32(1) - blocks[..., :8], np.ascontiguousarray(blocks[..., 8:])
    if stream == "torch-cpu-avx2":
        log = float32_math.avx2_log(u1)
        sine, cosine = float32_math.avx2_sincos(np.float32(2 * pi) * u2)
    else:
        log = float32_math.glibc_log(u1)
        sine, cosine = float32_math.glibc_sincos((2.0 * pi * u2.astype(np.float64)).astype(np.float32))
    radius = np.sqrt(np.float32(-2) * log)
    values = np.concatenate([radius * cosine * std, radius * sine * std], axis=-1)
    result: Array = values.reshape(uniform.shape) + np.float32(0)  # torch adds the mean: no negative zero
    return result
