"""Does this machine draw P as others do? Every way of drawing that exists here, against golden vectors."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.block_sum import NumpyBlockAdder
from ...core.compare import difference, digest
from ...core.streams import projection
from ...errors import TinyLoraError
from ...wording import argument
from ...workers import Workers, cores
from .check import Check

#: What torch's CPU capabilities draw, by name.
STREAM_OF = {"DEFAULT": "torch-cpu-scalar", "AVX2": "torch-cpu-avx2", "AVX512": "torch-cpu-avx2"}
DEVICES = ("cuda", "mps", "xpu")

#: What to do where torch draws as nobody else does.
_NO_STREAM = (
    "Train here only with P stored (save_projection), and draw the P of others' adapters with a named stream, not with "
    "this torch."
)

_DRAW = """
import json, os, sys, torch
cases, threads = json.loads(sys.argv[1])
capability = torch.backends.cpu.get_cpu_capability()
has = getattr(torch.cpu, f"_is_{capability.lower()}_supported", lambda: True)
if not has():  # torch believes what the environment says, and what it runs then may be an illegal instruction
    capability = "NONE"
print(torch.__version__, capability)
for count in threads:
    torch.set_num_threads(count)
    for seed, u, r in cases:
        P = torch.normal(mean=0.0, std=1 / r**0.5, size=(u, r, r), generator=torch.Generator().manual_seed(seed))
        print(P.numpy().tobytes().hex())
"""


@lru_cache(maxsize=1)
def golden() -> tuple[list[tuple[int, int, int]], dict[str, NDArray[Any]]]:
    """The cases (seed, u, r), and each stream's values of all of them, one after the other."""
    data = json.loads((Path(__file__).parents[2] / "data" / "golden_projections.json").read_text("utf-8"))
    values = {
        stream: np.frombuffer(b"".join(map(base64.b64decode, arrays)), "<f4")
        for stream, arrays in data["streams"].items()
    }
    return [(seed, u, r) for seed, u, r in data["cases"]], values


def verify_machine(device: str = "all") -> tuple[list[Check], list[str]]:
    """Run every check of this machine.

    Parameters
    ----------
    device : str
        "all", "cpu", or the one device whose part is wanted: "cuda", "mps" or "xpu".

    Returns
    -------
    checks, skipped
        The names of what isn't on this machine are in `skipped`.
    """
    checks: list[Check] = []
    skipped: list[str] = []
    if device in ("all", "cpu"):
        checks += _numpy_checks()
        checks += _torch_checks(skipped)
    for name in DEVICES:
        if device in ("all", name):
            checks += _device_checks(name, skipped)
    return checks, skipped


def _numpy_checks() -> Iterator[Check]:
    cases, expected = golden()
    for stream, values in expected.items():
        drawn = np.concatenate([projection.draw(*case, stream=stream).reshape(-1) for case in cases])
        found = difference(drawn, values)
        yield Check(f"numpy {stream}", "cpu", stream, found.identical, *found, digest=digest(drawn))


def _torch_checks(skipped: list[str]) -> Iterator[Check]:
    threads = sorted({1, 2, os.cpu_count() or 1})
    ways: list[tuple[str, str | None, list[int]]] = [("torch", None, [threads[-1]])]
    ways += [(f"torch {capability}", capability, threads) for capability in ("default", "avx2", "avx512")]
    with Workers(min(cores(), len(ways))) as pool:  # which wait for processes, whose start takes the time
        for (name, _, _), found in zip(ways, pool.map(lambda way: list(_drawn_by_torch(*way)), ways), strict=True):
            if found:
                yield from found
            else:
                skipped.append(f"{name}: not on this CPU")


def _drawn_by_torch(name: str, capability: str | None, threads: Sequence[int]) -> Iterator[Check]:
    """Torch in a process of its own, for its capability is settled when it starts; nothing, if the CPU lacks it."""
    cases, expected = golden()
    environment = dict(os.environ) | ({"ATEN_CPU_CAPABILITY": capability} if capability else {})
    command = [sys.executable, "-c", _DRAW, json.dumps([cases, list(threads)])]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode == -signal.SIGILL and capability is not None:
        return
    if run.returncode:
        said = run.stderr.strip().splitlines() or [f"it ended with {run.returncode}"]
        raise TinyLoraError(f"{name}: torch doesn't run here: {said[-1]}")
    version, actual = run.stdout.split("\n", 1)[0].split()
    if capability is not None and actual.lower() != capability:
        return
    arrays = [np.frombuffer(bytes.fromhex(line), "<f4") for line in run.stdout.splitlines()[1:]]
    for number, count in enumerate(threads):
        drawn = np.concatenate(arrays[number * len(cases) : (number + 1) * len(cases)])
        stream = next((s for s, values in expected.items() if values.tobytes() == drawn.tobytes()), None)
        usual = STREAM_OF.get(actual, projection.DEFAULT_STREAM)
        found = difference(drawn, expected[stream or usual])
        note = f"torch {version}, {actual.lower()}"
        if stream is None:
            note += f": no known stream; compared with {usual}"
        label = name if capability is None else f"{name}, {count} thread{'s' if count > 1 else ''}"
        hint = None if stream is not None else _NO_STREAM
        yield Check(label, "cpu", stream, stream is not None, *found, note=note, digest=digest(drawn), hint=hint)


def _device_checks(name: str, skipped: list[str]) -> Iterator[Check]:
    """P is drawn on the CPU wherever a model is; a device forms the sums of a merge, whose bytes have to agree."""
    import torch

    from ...core.block_sum_torch import TorchBlockAdder

    module: Any = getattr(torch, name, None)
    if name == "mps":
        module = torch.backends.mps
    if module is None or not module.is_available():
        skipped.append(f"{name}: not on this machine")
        return
    import ml_dtypes

    rng = np.random.default_rng(0)
    W = (rng.standard_normal((512, 384)) * 0.02).astype(ml_dtypes.bfloat16)
    left, right = rng.standard_normal((512, 2)).astype(np.float32) * 1e-2, rng.standard_normal((2, 384), np.float32)
    expected, found = np.empty_like(W), np.empty_like(W)
    NumpyBlockAdder(W.size, np.dtype(np.float32)).add(W, left, right, expected)
    TorchBlockAdder(np.dtype(np.float32), torch.device(name)).add(W, left, right, found)
    result = difference(found.astype(np.float32), expected.astype(np.float32))
    hint = None if result.identical else f"Merge on the CPU: {argument('device', 'cpu')}."
    yield Check(f"merge sum on {name}", name, None, result.identical, *result, digest=digest(found), hint=hint)
