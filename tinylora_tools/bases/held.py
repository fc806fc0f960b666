"""Weights kept in memory, for work that needs them several times."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..formats.memory_file import MemoryFile
from ..formats.tensors import TensorFile
from .base import Base
from .modules import Module
from .scaled_weight import ScaledWeight

#: How much of the memory at hand weights may take.
_SHARE = 0.5

_CGROUP = Path("/sys/fs/cgroup")


def hold(base: Base, modules: Sequence[Module]) -> list[str]:
    """Read the modules' weights into memory, once; later readings of `base` find them there.

    Returns
    -------
    list of str
        Empty, or where they don't fit into half of the memory at hand a note that says so: nothing is kept then.
    """
    infos = {module.tensor.name: module.tensor for module in modules}
    needed, at_hand = sum(info.nbytes for info in infos.values()), memory_at_hand()
    if needed > _SHARE * at_hand:
        return [
            f"the targeted weights, {needed / 1e9:.3g} GB, don't fit into half of the {at_hand / 1e9:.3g} GB of memory "
            "at hand: they are read three times, for their fingerprint, for the factors and for the sums"
        ]
    base.checkpoint = base.checkpoint.reading({name: _in_memory(base.checkpoint.source(name), name) for name in infos})
    return []


def _in_memory(source: TensorFile, name: str) -> TensorFile:
    return (
        source.in_memory() if isinstance(source, ScaledWeight) else MemoryFile(source.path, {name: source.read(name)})
    )


def memory_at_hand() -> int:
    """Bytes that this process may still take: what the system has available, or what its control group leaves."""
    found = [_available()]
    with suppress(OSError, ValueError):  # cgroup v2; "max" is no number
        limit = int((_CGROUP / "memory.max").read_text())
        found.append(max(0, limit - int((_CGROUP / "memory.current").read_text())))
    return min(found)


def _available() -> int:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:  # elsewhere than on Linux what is free isn't told: half of what there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError):
        return 0
