"""Whether a packed file gives back the adapter that it was made of, and what to do where it can't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...adapters.write import stored_tensors
from ...errors import UnsupportedError
from ...formats.peft.adapter import PeftAdapter
from ...formats.peft.keys import factor_key
from ...wording import argument, call


def compare(adapter: PeftAdapter, back: Mapping[str, NDArray[Any]], *, exact: bool, rounded: bool) -> bool:
    """Whether what the file gives back is the adapter, bit for bit.

    Raises
    ------
    UnsupportedError
        If a tensor would be lost or come back otherwise than it may: A and B within the error that was measured, or,
        with `exact`, as they are; v as it is, unless it is `rounded` on purpose; everything else as it is.
    """
    before = stored_tensors(adapter)
    may_differ = {factor_key(module, part) for module in adapter.modules for part in "AB"} if not exact else set()
    may_differ |= {info.name for info in adapter.vectors.values()} if rounded else set()
    identical, lost = True, []
    for key in sorted(before.keys() | back.keys()):
        one, other = before.get(key), back.get(key)
        same = one is not None and other is not None and (one.dtype, one.shape) == (other.dtype, other.shape)
        bits = one is not None and other is not None and one.tobytes() == other.tobytes()
        if not same or not (bits or key in may_differ):
            lost.append(key)
        identical = identical and bits
    if lost:
        raise UnsupportedError(
            f"{lost[0]} wouldn't come back as it is: this form can't hold the adapter",
            where=adapter.file.path,
            hint=_way_out(adapter, before, lost, exact=exact),
        )
    return identical


def _way_out(adapter: PeftAdapter, before: Mapping[str, NDArray[Any]], lost: Sequence[str], *, exact: bool) -> str:
    """What to do with an adapter of which some tensors wouldn't come back."""
    factors = {factor_key(module, part) for module in adapter.modules for part in "ABP"} & before.keys()
    with np.errstate(over="ignore"):
        fit = all(np.array_equal(before[key].astype(np.float32).astype(np.float64), before[key]) for key in factors)
    if fit and factors.issuperset(lost):
        anew = call("to_peft", adapter.path, "ANEW", adapter_dtype="float32")
        return f"Write it anew first, with one dtype: {anew}"
    if exact and len({before[key].dtype for key in factors}) == 1 and all(key.endswith(("_A", "_B")) for key in lost):
        return f"Leave {argument('exact')} out: float32 rounds A and B, which are float64."
    return "Ship it in PEFT's form: float64 values that float32 rounds, or vectors of several dtypes, don't fit."
