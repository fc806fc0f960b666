"""P from a seed, bit for bit as PyTorch draws it, without PyTorch.

PEFT draws the P of a module as `torch.normal(mean=0.0, std=1 / sqrt(r), size=(u, r, r), generator=g)` with
`g = torch.Generator().manual_seed(seed)`. The bits depend on how torch was built and on the CPU, so what is drawn here
is named: a stream is a generator with a fixed arithmetic.

- `torch-cpu-avx2`: Linux on x86-64 with AVX2 or AVX-512, where nearly every adapter is trained
- `torch-cpu-scalar`: the same without AVX2 (or with ATEN_CPU_CAPABILITY=default)
- `torch`: whatever the installed torch does on this machine

Source: aten/src/ATen/native/cpu/DistributionTemplates.h (normal_fill), ATen/core/MT19937RNGEngine.h and
ATen/core/DistributionsHelper.h, PyTorch 2.6 to 2.14; Box and Muller (1958).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import cos, log1p, pi, sin, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedError
from . import float32_math

STREAMS = ("torch-cpu-avx2", "torch-cpu-scalar", "torch")
DEFAULT_STREAM = "torch-cpu-avx2"

#: Bytes of P that one call may draw. 10,000 modules of u=64, r=16 take 655 MB; what is far beyond is a mistake.
MOST_BYTES = 4 << 30

_WORDS = 624  # of the Mersenne twister's state
_SHIFT = 397
#: A word depends on the one 227 places before, and on its neighbour: these can be made at once.
_STRIDES = ((0, 128), (128, 227), (227, 355), (355, 483), (483, _WORDS - 1), (_WORDS - 1, _WORDS))
# What is made at a time bounds the memory: many modules, since seeding is 623 steps for any number of them, and few
# values, so that the buffers stay in the cache.
_MODULES = 2048
_VALUES = 1 << 16


def draw(seed: int, u: int, r: int, *, stream: str = DEFAULT_STREAM) -> NDArray[Any]:
    """P (u, r, r) in float32. See `draw_many`."""
    P: NDArray[Any] = draw_many([seed], u, r, stream=stream)[0]
    return P


def draw_rounded(
    seeds: Sequence[int], u: int, ranks: Sequence[int], dtypes: Sequence[str], *, stream: str = DEFAULT_STREAM
) -> list[NDArray[Any]]:
    """P (u, r, r) in float32 of each module, with a rank of its own, rounded as training in its dtype rounds it; those
    of one rank are drawn together. See `draw_many` and `round_to`."""
    found: list[NDArray[Any]] = [np.empty(0, np.float32)] * len(seeds)
    for rank in set(ranks):
        alike = [place for place, one in enumerate(ranks) if one == rank]
        drawn = draw_many([seeds[place] for place in alike], u, rank, stream=stream)
        for place, P in zip(alike, drawn, strict=True):
            found[place] = round_to(P, dtypes[place]) if dtypes[place] in ("bfloat16", "float16") else P
    return found


def draw_many(seeds: Sequence[int], u: int, r: int, *, stream: str = DEFAULT_STREAM) -> NDArray[Any]:
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
    UnsupportedError
        For an unknown stream, u or r below 1, a seed that torch refuses, or more than `MOST_BYTES` of P. Nothing has
        been allocated then.
    """
    _check(seeds, u, r, stream)
    return _drawn(seeds, u, r, 1.0 / sqrt(r), stream)


def draw_scaled(seeds: Sequence[int], u: int, r: int, *, stream: str = DEFAULT_STREAM) -> NDArray[Any]:
    """P as `torch.randn(u, r, r, generator=g) / math.sqrt(r)` makes it, which isn't PEFT's P to the last bit.

    Parameters, result and errors as `draw_many`.
    """
    _check(seeds, u, r, stream)
    P: NDArray[Any] = _drawn(seeds, u, r, 1.0, stream) / np.float32(sqrt(r))
    return P


def _drawn(seeds: Sequence[int], u: int, r: int, std: float, stream: str) -> NDArray[Any]:
    if stream == "torch":
        return _draw_with_torch(seeds, u, r, std)
    n = u * r * r
    out = np.empty((len(seeds), n), np.float32)
    low_bits = np.array([seed % 2**32 for seed in seeds], np.uint32)
    for first in range(0, len(seeds), _MODULES):
        chunk = slice(first, first + _MODULES)
        if n < 16:
            out[chunk] = _normal_double(low_bits[chunk], n, std)
        else:
            out[chunk] = _normal_float(low_bits[chunk], n, np.float32(std), stream)
    return out.reshape(len(seeds), u, r, r)


def round_to(P: NDArray[Any], dtype: str) -> NDArray[Any]:
    """P rounded to a training dtype, in float32 again: PEFT draws in float32, rounds to the base's dtype, and widens.

    Parameters
    ----------
    P : array of float32, of any shape
    dtype : "float32" (P itself is returned), "bfloat16" or "float16"

    Raises
    ------
    UnsupportedError
        For any other dtype.
    """
    if dtype == "float32":
        return P
    if dtype == "float16":
        return P.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        import ml_dtypes

        return P.astype(ml_dtypes.bfloat16).astype(np.float32)
    raise UnsupportedError(f"P isn't rounded to {dtype!r}", hint="Training dtypes are float32, bfloat16 and float16.")


def _check(seeds: Sequence[int], u: int, r: int, stream: str) -> None:
    if stream not in STREAMS:
        raise UnsupportedError(f"no stream is named {stream!r}", hint=f"Known streams: {', '.join(STREAMS)}.")
    if u < 1 or r < 1:
        raise UnsupportedError(f"u={u} and r={r} give no P", hint="Both have to be 1 or more.")
    for seed in seeds:
        if not -(2**63) <= seed < 2**64:
            raise UnsupportedError(f"seed {seed} is out of range", hint="torch takes seeds from -2^63 to 2^64 - 1.")
    size = 4 * len(seeds) * u * r * r
    if size > MOST_BYTES:
        raise UnsupportedError(
            f"{len(seeds):,} P of u={u}, r={r} would take {size:,} bytes; the most is {MOST_BYTES:,}",
            hint="Check u and r in the configuration: PEFT's defaults are u=64 and r=2.",
        )


def _draw_with_torch(seeds: Sequence[int], u: int, r: int, std: float) -> NDArray[Any]:
    import torch

    out = np.empty((len(seeds), u, r, r), np.float32)
    for one, seed in zip(out, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        one[...] = torch.normal(mean=0.0, std=std, size=(u, r, r), generator=generator).numpy()
    return out


class _Twister:
    """MT19937 (Matsumoto and Nishimura, 1998) for many seeds at once, seeded by init_genrand as torch and NumPy do.

    `take(count)` is the next `count` outputs for each seed, (count, seeds) uint32.
    """

    def __init__(self, seeds: NDArray[Any]) -> None:
        self._pieces = _words(seeds)
        self._ready = np.empty((0, len(seeds)), np.uint32)

    def take(self, count: int) -> NDArray[Any]:
        out = np.empty((count, self._ready.shape[1]), np.uint32)
        filled = 0
        while filled < count:
            if not len(self._ready):
                self._ready = next(self._pieces)
            piece, self._ready = self._ready[: count - filled], self._ready[count - filled :]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
        return out


def _words(seeds: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """MT19937's outputs in pieces, without end."""
    state = np.empty((_WORDS, len(seeds)), np.uint32)
    state[0] = seeds
    for i in range(1, _WORDS):
        before = state[i - 1]
        np.add(np.uint32(1812433253) * (before ^ (before >> 30)), np.uint32(i), out=state[i])
    while True:
        for first, last in _STRIDES:
            stride = state[first:last]
            following = state[first + 1 : last + 1] if last < _WORDS else state[:1]
            shifted = state[(first + _SHIFT) % _WORDS :][: last - first]
            stride[...] = shifted ^ _twisted(stride, following)
            y = stride ^ (stride >> 11)
            y ^= (y << 7) & np.uint32(0x9D2C5680)
            y ^= (y << 15) & np.uint32(0xEFC60000)
            yield y ^ (y >> 18)


def _twisted(upper: NDArray[Any], lower: NDArray[Any]) -> NDArray[Any]:
    mixed = (upper & np.uint32(0x80000000)) | (lower & np.uint32(0x7FFFFFFF))
    result: NDArray[Any] = (mixed >> 1) ^ ((mixed & np.uint32(1)) * np.uint32(0x9908B0DF))
    return result


def _normal_double(seeds: NDArray[Any], n: int, std: float) -> NDArray[Any]:
    """Fewer than 16 values: torch draws them one by one in double precision, in pairs. (seeds, n) float32.

    log1p, cos and sin are the C library's, as in torch. Libraries may differ in a double's last bit (the GNU C
    library's variants for CPUs with and without FMA do, in 0.1% of values); a few such differences in 10^9
    survive rounding to float32.
    """
    pairs = -(-n // 2)
    words = _Twister(seeds).take(4 * pairs).astype(np.uint64)  # (4 pairs, seeds)
    random = (words[0::2] << np.uint64(32)) | words[1::2]
    uniform = (random & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53  # (2 pairs, seeds)
    radius = np.sqrt(-2.0 * _each(log1p, -uniform[1::2]))
    angle = 2.0 * pi * uniform[0::2]
    values = np.stack([radius * _each(cos, angle), radius * _each(sin, angle)], axis=1).reshape(2 * pairs, len(seeds))
    result: NDArray[Any] = (values[:n].T * std).astype(np.float32)
    return result


def _each(function: Callable[[float], float], values: NDArray[Any]) -> NDArray[Any]:
    """Not NumPy's functions: those are other ones where the CPU has AVX-512, and the arrays are small."""
    return np.fromiter(map(function, values.ravel().tolist()), np.float64, values.size).reshape(values.shape)


def _normal_float(seeds: NDArray[Any], n: int, std: np.float32, stream: str) -> NDArray[Any]:
    """16 values or more: blocks of 16 in single precision; what is left over is redrawn as a block that ends with the
    last value, over the one before. (seeds, n) float32."""
    out = np.empty((len(seeds), n), np.float32)
    twister = _Twister(seeds)
    whole = n - n % 16
    step = max(16, _VALUES // len(seeds) // 16 * 16)
    for first in range(0, whole, step):
        last = min(first + step, whole)
        out[:, first:last] = _box_muller(twister.take(last - first), std, stream).T
    if n % 16:
        twister.take(n - whole)  # made into values that the last block replaces
        out[:, n - 16 :] = _box_muller(twister.take(16), std, stream).T
    return out


def _box_muller(words: NDArray[Any], std: np.float32, stream: str) -> NDArray[Any]:
    """Each 16 words of a column make 16 normal values: j with j + 8. (words, seeds) to float32 of the same shape."""
    uniform = (words & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)
    blocks = uniform.reshape(-1, 2, 8, words.shape[1])
    u1, u2 = np.float32(1) - blocks[:, 0], blocks[:, 1]
    if stream == "torch-cpu-avx2":
        log = float32_math.avx2_log(u1)
        sine, cosine = float32_math.avx2_sincos(np.float32(2 * pi) * u2)
    else:
        log = float32_math.glibc_log(u1)
        sine, cosine = float32_math.glibc_sincos((2.0 * pi * u2.astype(np.float64)).astype(np.float32))
    radius = np.sqrt(np.float32(-2) * log)
    values = np.stack([radius * cosine, radius * sine], axis=1) * std
    result: NDArray[Any] = values.reshape(words.shape) + np.float32(0)  # torch adds the mean: no negative zero
    return result
