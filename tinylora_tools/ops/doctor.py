"""What this machine has, for a bug report: versions, the processor, devices, room, the Hub."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .. import __version__
from ..sources.hub_state import cache_directory, hub_state

_LIBRARIES = (
    "torch", "numpy", "ml_dtypes", "safetensors", "huggingface_hub", "click", "rich", "transformers", "peft",
)  # fmt: skip

#: Settings that change what this program does; none of them is secret.
_SETTINGS = (
    "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "MKL_NUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
)  # fmt: skip

#: Draws a P, and says what torch has; in a process of its own, for torch may be missing, broken or slow to load.
_ASKED = """
import torch
P = torch.normal(mean=0.0, std=1 / 4**0.5, size=(3, 4, 4), generator=torch.Generator().manual_seed(42))
devices = ["cpu"]
for name in ("cuda", "xpu"):
    module = getattr(torch, name, None)
    if module is not None and module.is_available():
        devices += [f"{name}:{i} {module.get_device_name(i)}" for i in range(module.device_count())]
if torch.backends.mps.is_available():
    devices.append("mps")
print(torch.backends.cpu.get_cpu_capability())
print(P.numpy().tobytes().hex())
print(chr(10).join(devices))
"""


@dataclass(frozen=True, slots=True)
class Library:
    """A library that is used, by its version; None where it isn't installed."""

    version: str | None


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All that `tinylora doctor` says. `stream` is the arithmetic that the installed torch draws P with, None where it
    is none of those known, or torch doesn't run; sizes are in bytes, None where they aren't known."""

    version: str
    python: str
    executable: str
    system: str
    machine: str
    cpus: int
    libraries: dict[str, Library]
    cpu_capability: str | None
    stream: str | None
    devices: list[str]
    memory: int | None
    memory_free: int | None
    disk_free: int | None
    hub: str
    hub_cache: str | None
    hub_cache_free: int | None
    settings: dict[str, str]
    problems: list[str]
    warnings: list[str]


def doctor() -> DoctorReport:
    """Look at this machine; nothing is written, and nothing sent anywhere."""
    capability, stream, devices, problems = _torch()
    memory = _memory()
    cache = cache_directory()
    return DoctorReport(
        version=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
        machine=platform.machine(),
        cpus=_cpus(),
        libraries={name: Library(_version(name)) for name in _LIBRARIES},
        cpu_capability=capability,
        stream=stream,
        devices=devices,
        memory=memory.get("MemTotal"),
        memory_free=memory.get("MemAvailable"),
        disk_free=_free(Path.cwd()),
        hub=hub_state(),
        hub_cache=None if cache is None else str(cache),
        hub_cache_free=None if cache is None else _free(cache),
        settings={name: os.environ[name] for name in _SETTINGS if name in os.environ},
        problems=problems,
        warnings=[],
    )


def _torch() -> tuple[str | None, str | None, list[str], list[str]]:
    """Its CPU capability, the stream that it draws, its devices, and what is wrong with it."""
    if _version("torch") is None:
        return None, None, ["cpu"], []
    run = subprocess.run([sys.executable, "-c", _ASKED], capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
        return None, None, [], [f"torch is installed but doesn't run: {reason}"]
    capability, drawn, *devices = run.stdout.splitlines()
    try:
        from ..core.streams import projection
    except ImportError as error:
        return capability.lower(), None, devices, [f"what torch draws can't be told: {error}"]
    names = ("torch-cpu-avx2", "torch-cpu-scalar")
    known = {projection.draw(42, 3, 4, stream=name).astype("<f4").tobytes(): name for name in names}
    return capability.lower(), known.get(bytes.fromhex(drawn)), devices, []


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _cpus() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> Mapping[str, int]:
    """Linux's figures of the memory, in bytes; none elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) == 3}


def _free(path: Path) -> int | None:
    """Free bytes where a path is, or would be."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None
