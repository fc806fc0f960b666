"""What this machine's torch draws, at each CPU capability that it can be told to have."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tinylora_tools.ops.verify import machine
from tinylora_tools.ops.verify.check import Check

STREAM_OF = {"DEFAULT": "torch-cpu-scalar", "AVX2": "torch-cpu-avx2", "AVX512": "torch-cpu-avx2"}
CAPABILITY = torch.backends.cpu.get_cpu_capability().replace("NO AVX", "DEFAULT")  # as torch 2.6 calls it
KNOWN = sys.platform == "linux" and platform.machine() == "x86_64" and CAPABILITY in STREAM_OF
where_known = pytest.mark.skipif(not KNOWN, reason=f"no stream is named for {CAPABILITY} on {platform.platform()}")
# A CPU can be told to do less than it can, not more.
CAPABILITIES = list(STREAM_OF)[: list(STREAM_OF).index(CAPABILITY) + 1] if KNOWN else []


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


_drawn: dict[tuple[object, ...], list[Check]] = {}


def remembering(draw: Callable[[str, str | None, Sequence[int]], Iterator[Check]] = machine._drawn_by_torch) -> Any:
    """The processes of `verify-seed` that draw with torch, each started once: nothing else tells apart what they
    draw."""

    def drawn(name: str, capability: str | None, threads: Sequence[int]) -> list[Check]:
        key = (draw, name, capability or os.environ.get("ATEN_CPU_CAPABILITY"), *threads)
        if key not in _drawn:
            _drawn[key] = list(draw(name, capability, threads))
        return _drawn[key]

    return drawn
