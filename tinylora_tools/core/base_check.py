"""Do an adapter's factors belong to a base's weight? What a residual means.

The thresholds were measured over Gaussian, power-law and outlier spectra, with the rounding of each dtype in A and B: a
weight's own factors leave at most 1.4e-2 (bfloat16), 1.3e-3 (float16) or 2.4e-6 (float32) of s_1; a float32 adapter on
the bfloat16 copy of its base 2e-4 to 1.2e-3; fine-tuning by 5% or 20% 7e-3 to 1.5e-1; another model 1 or more.
"""

from __future__ import annotations

#: Above this the factors are another weight's.
OTHER_WEIGHT = 0.3

#: Above this the weight has moved since it was factored, by the dtype of the factors (and of the base).
_MOVED_16_BIT_FACTORS = 0.02
_MOVED_16_BIT_BASE = 2e-3
_MOVED = 1e-4


def moved_above(factors_dtype: str, base_dtype: str) -> float:
    """The residual above which rounding no longer explains it."""
    if factors_dtype != "float32":
        return _MOVED_16_BIT_FACTORS
    return _MOVED_16_BIT_BASE if base_dtype in ("bfloat16", "float16") else _MOVED
