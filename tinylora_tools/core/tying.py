"""Which trained vector a module uses: PEFT's weight tying (peft/tuners/tinylora/model.py, `_create_and_replace`)."""

from __future__ import annotations


def group_count(modules: int, weight_tying: float) -> int:
    """Number of trained vectors for `modules` targeted modules; Python's `round`, half to even, as PEFT."""
    return max(1, round(modules * (1.0 - weight_tying)))


def group_of(index: int, modules: int, weight_tying: float) -> int:
    """Group of the module with place `index` among `modules`; the last group takes what is left over."""
    groups = group_count(modules, weight_tying)
    return min(index // max(1, modules // groups), groups - 1)
