"""One sha256 for each fixture, whatever the CPU can do, and however the work is cut up and handed out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch_streams import CAPABILITIES
from trust.bytes_made import RECORDED, USUAL, Setting, features, pack_all

HERE = Path(__file__).resolve().parent

#: Blocks of a few rows on several threads, and torch's arithmetic in place of NumPy's.
SETTINGS: list[Setting] = [USUAL, (2, 7, "cpu"), (5, 100, "cpu"), (2, 1000, "cpu:0")]
if torch.cuda.is_available():
    SETTINGS.append((1, 1000, "cuda"))

#: How NumPy calls what it has code for, the least first, and what OpenBLAS and the C library are to take the CPU for.
NUMPY = ("X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR")
LESS = {
    "DEFAULT": (NUMPY, "Prescott", "-AVX2,-FMA,-AVX512F"),
    "AVX2": (NUMPY[1:], "Haswell", "-AVX512F"),
    "AVX512": ((), "SkylakeX", ""),
}


def environment(capability: str, threads: int) -> dict[str, str]:
    """What makes torch, NumPy, OpenBLAS and the C library do with less, in a process that is started so."""
    numpy, core, library = LESS[capability]
    return {
        "ATEN_CPU_CAPABILITY": capability.lower(),
        "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in numpy if name in features()),
        "OPENBLAS_CORETYPE": core,
        "GLIBC_TUNABLES": f"glibc.cpu.hwcaps={library}" if library else "",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
    }


def made(settings: Sequence[Setting], packed: Path | None, given: Mapping[str, str]) -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, HERE / "bytes_made.py", json.dumps([settings, packed and str(packed)])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE.parents[1], HERE.parent))), **given},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]]
    found, used = json.loads(done.stdout)
    assert not {*given.get("NPY_DISABLE_CPU_FEATURES", "").split()}.intersection(used)
    if packed is not None and "ATEN_CPU_CAPABILITY" in given:
        assert given["ATEN_CPU_CAPABILITY"].upper() == used[-1].replace("NO AVX", "DEFAULT")
    return found


def recorded() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(RECORDED.read_text())
    return found


@pytest.mark.skipif(not CAPABILITIES, reason="CPUs of this kind can't be told to do with less")
def test_a_cpu_that_can_do_little_merges_to_the_same_bytes() -> None:
    found = made([(2, 100, "cpu")], None, environment("DEFAULT", 2))
    assert found == {case: {"merge": digests["merge"]} for case, digests in recorded().items()}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_cpu_makes_the_same_bytes_of_everything(
    capability: str, threads: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is packed here is restored there."""
    packed = pack_all(tmp_path_factory.mktemp("packed"))
    assert made(SETTINGS, packed, environment(capability, threads)) == recorded()


@pytest.mark.slow
def test_the_usual_settings_make_them_here(tmp_path: Path) -> None:
    """Wherever this runs: on processors of other kinds, too."""
    assert made(SETTINGS, pack_all(tmp_path), {}) == recorded()
