"""log, sin and cos in single precision, bit for bit as two builds of PyTorch compute them on x86-64.

NumPy's own functions are accurate but aren't these, and a drawn P must be the same on every machine. Every function
here is a fixed sequence of IEEE additions and multiplications, so it depends on neither the C library nor the CPU.

- `avx2_*`: the Cephes single-precision polynomials as vectorised in avx_mathfun.h, with the fused multiply-adds that
  the compiler makes of them (ATen/native/cpu/avx_mathfun.h, PyTorch 2.6 to 2.14).
- `glibc_*`: logf, sinf and cosf of the GNU C library (2.28 and later; 2.36 was compared), which are those of Arm's
  optimized routines: short polynomials and a small table, in double precision. The library's variants with and
  without FMA give the same float32 values here.

Arguments are what Box-Muller needs: u in (0, 1] for the logarithm, angles in [0, 2 pi) for sine and cosine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_F = np.float32


def _fma(
    a: NDArray[Any] | np.floating[Any], b: NDArray[Any] | np.floating[Any], c: NDArray[Any] | np.floating[Any]
) -> NDArray[Any]:
    """round(a b + c) for float32 arguments and a normal result, rounded once.

    The product is exact in float64, the sum is not always: rounding it to float32 goes wrong where rounding put the
    float64 sum on the middle of two float32 numbers. There the sum's error says to which side the true value lies.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = np.add(product, c, dtype=np.float64)
    result: NDArray[Any] = total.astype(_F)
    middle = (total.view(np.int64) & 0x1FFF_FFFF) == 0x1000_0000
    if middle.any():
        at = np.nonzero(middle)
        p, s = product[at], total[at]
        addend = np.broadcast_to(np.asarray(c, np.float64), total.shape)[at]
        rest = s - p
        error = (p - (s - rest)) + (addend - rest)  # Knuth's two-sum: p + c = s + error, exactly
        result[at] = np.where(error == 0, s, np.nextafter(s, np.where(error > 0, np.inf, -np.inf))).astype(_F)
    return result


_AVX2_LOG = [
    _F(c)
    for c in (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )
]  # fmt: skip
_AVX2_COS = [_F(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)]
_AVX2_SIN = [_F(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)]


def avx2_log(u: NDArray[Any]) -> NDArray[Any]:
    """log(u) for normal float32 u > 0."""
    bits = u.view(np.int32)
    exponent = ((bits >> 23) - 126).astype(_F)
    x = ((bits & 0x007F_FFFF) | 0x3F00_0000).view(_F)  # mantissa in [1/2, 1)
    low = x < _F(0.707106781186547524)
    exponent = exponent - low.astype(_F)
    x = (x - _F(1)) + np.where(low, x, _F(0))
    z = x * x
    y = _fma(_AVX2_LOG[0], x, _AVX2_LOG[1])
    for c in _AVX2_LOG[2:]:
        y = _fma(y, x, c)
    y = _fma(y * x, z, exponent * _F(-2.12194440e-4))
    # Fused in torch too; these products are exact, so that it makes no difference.
    y = y - z * _F(0.5)
    result: NDArray[Any] = (x + y) + exponent * _F(0.693359375)
    return result


def avx2_sincos(angle: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """sin and cos of a float32 angle >= 0."""
    j = ((angle * _F(1.27323954473516)).astype(np.int32) + 1) & ~np.int32(1)
    octant = j.astype(_F)
    x = angle - octant * _F(0.78515625)  # fused in torch too; the product is exact, as is the next
    x = x - octant * _F(2.4187564849853515625e-4)
    x = _fma(octant, _F(-3.77489497744594108e-8), x)
    z = x * x
    c = _fma(_AVX2_COS[0], z, _AVX2_COS[1])
    c = _fma(c, z, _AVX2_COS[2]) * z
    c = _fma(c, z, -(z * _F(0.5))) + _F(1)
    s = _fma(_AVX2_SIN[0], z, _AVX2_SIN[1])
    s = _fma(s, z, _AVX2_SIN[2]) * z
    s = _fma(s, x, x)
    swapped = (j & 2) != 0
    sine, cosine = np.where(swapped, c, s), np.where(swapped, s, c)
    return np.where((j & 4) != 0, -sine, sine), np.where(((j + 2) & 4) != 0, -cosine, cosine)


#: 1/c and log(c) for a c near the middle of each sixteenth of [0.7, 1.4).
_GLIBC_LOG_TABLE = [
    ("0x1.661ec79f8f3bep+0", "-0x1.57bf7808caadep-2"),
    ("0x1.571ed4aaf883dp+0", "-0x1.2bef0a7c06ddbp-2"),
    ("0x1.49539f0f010bp+0", "-0x1.01eae7f513a67p-2"),
    ("0x1.3c995b0b80385p+0", "-0x1.b31d8a68224e9p-3"),
    ("0x1.30d190c8864a5p+0", "-0x1.6574f0ac07758p-3"),
    ("0x1.25e227b0b8eap+0", "-0x1.1aa2bc79c81p-3"),
    ("0x1.1bb4a4a1a343fp+0", "-0x1.a4e76ce8c0e5ep-4"),
    ("0x1.12358f08ae5bap+0", "-0x1.1973c5a611cccp-4"),
    ("0x1.0953f419900a7p+0", "-0x1.252f438e10c1ep-5"),
    ("0x1p+0", "0x0p+0"),
    ("0x1.e608cfd9a47acp-1", "0x1.aa5aa5df25984p-5"),
    ("0x1.ca4b31f026aap-1", "0x1.c5e53aa362eb4p-4"),
    ("0x1.b2036576afce6p-1", "0x1.526e57720db08p-3"),
    ("0x1.9c2d163a1aa2dp-1", "0x1.bc2860d22477p-3"),
    ("0x1.886e6037841edp-1", "0x1.1058bc8a07ee1p-2"),
    ("0x1.767dcf5534862p-1", "0x1.4043057b6ee09p-2"),
]
_INVERSE = np.array([float.fromhex(inverse) for inverse, _ in _GLIBC_LOG_TABLE])
_LOG = np.array([float.fromhex(log) for _, log in _GLIBC_LOG_TABLE])
_LN2 = float.fromhex("0x1.62e42fefa39efp-1")
_GLIBC_LOG = [float.fromhex(c) for c in ("-0x1.00ea348b88334p-2", "0x1.5575b0be00b6ap-2", "-0x1.ffffef20a4123p-2")]
_GLIBC_COS = [
    float.fromhex(c)
    for c in (
        "0x1p0",
        "-0x1.ffffffd0c621cp-2",
        "0x1.55553e1068f19p-5",
        "-0x1.6c087e89a359dp-10",
        "0x1.99343027bf8c3p-16",
    )
]
_GLIBC_SIN = [float.fromhex(c) for c in ("-0x1.555545995a603p-3", "0x1.1107605230bc4p-7", "-0x1.994eb3774cf24p-13")]
_QUARTER = float.fromhex("0x1.45F306DC9C883p+23")  # 2 / pi, times 2^24
_HALF_PI = float.fromhex("0x1.921FB54442D18p0")


def glibc_log(u: NDArray[Any]) -> NDArray[Any]:
    """logf(u) for normal float32 u > 0."""
    bits = u.view(np.uint32)
    offset = bits - np.uint32(0x3F33_0000)
    i = (offset >> 19) & 15
    k = (offset.view(np.int32) >> 23).astype(np.float64)
    z = (bits - (offset & np.uint32(0xFF80_0000))).view(_F).astype(np.float64)
    r = z * _INVERSE[i] - 1.0
    r2 = r * r
    y = _GLIBC_LOG[1] * r + _GLIBC_LOG[2]
    y = _GLIBC_LOG[0] * r2 + y
    y = y * r2 + (_LOG[i] + k * _LN2 + r)
    result: NDArray[Any] = y.astype(_F)
    return result


def glibc_sincos(angle: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """sinf and cosf of a float32 angle in [0, 120)."""
    wide = angle.astype(np.float64)
    small = angle.view(np.uint32) >> 20 < 0x3F4  # below pi/4, judged by the leading bits
    n = np.where(small, 0, ((wide * _QUARTER).astype(np.int32) + 0x80_0000) >> 24)
    x = wide - n * _HALF_PI
    x2 = x * x
    x3 = x * x2
    s = (x + x3 * _GLIBC_SIN[0]) + (x3 * x2) * (_GLIBC_SIN[1] + x2 * _GLIBC_SIN[2])
    x4 = x2 * x2
    c = (_GLIBC_COS[0] + x2 * _GLIBC_COS[1]) + x4 * _GLIBC_COS[2]
    c = c + (x4 * x2) * (_GLIBC_COS[3] + x2 * _GLIBC_COS[4])
    tiny = angle.view(np.uint32) >> 20 < 0x398  # below 2^-12: the angle and 1
    s, c = np.where(tiny, wide, s).astype(_F), np.where(tiny, 1.0, c).astype(_F)
    odd = (n & 1) != 0
    sine, cosine = np.where(odd, c, s), np.where(odd, s, c)
    return np.where((n & 2) != 0, -sine, sine), np.where(((n + 1) & 2) != 0, -cosine, cosine)
