"""`factor` needs no more memory than it promises: the largest tensor's stored bytes and 700 MB, or 500 MB a thread and
400 MB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

# Not getrusage: what a process's parent had before it started counts there.
FACTOR = """
import sys
from tinylora_tools.cli import main
from tinylora_tools.core.svd import krylov
if sys.argv.pop(1) == "dense":
    krylov.starting_cost = lambda *_: 0.0
    krylov._give_up = lambda *state: True
try:
    main()
except SystemExit as end:
    print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
    raise
"""


def decaying() -> Tensor:
    """A matrix as tall as an embedding is, with values that fall."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(70_000, 768, generator=generator) * torch.arange(1, 769) ** -0.5).to(torch.bfloat16)


def large() -> Tensor:
    """Of which two threads take two at a time: 180 MB, and 200 MB for a dense decomposition."""
    return torch.randn(31_000, 2900, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


def square() -> Tensor:
    return torch.randn(3072, 3072, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("route", ["krylov", "dense"])
@pytest.mark.parametrize(
    ("make", "count"),
    [(decaying, 1), (lambda: decaying().float(), 1), (lambda: decaying().T.contiguous(), 1),
     (lambda: decaying() * 2.0**60, 1), (square, 2), (large, 3)],
    ids=["bfloat16", "float32", "wide", "far from 1", "small ones", "large ones"],
)  # fmt: skip
def test_keeps_its_promise(make: Callable[[], Tensor], count: int, route: str, tmp_path: Path) -> None:
    W = make()
    save_file({f"part{i}.weight": W.clone() for i in range(count)}, tmp_path / "model.safetensors")
    arguments = [
        "factor",
        str(tmp_path),
        "-o",
        str(tmp_path / "f.safetensors"),
        "-q",
        "-r",
        "16",
        "--target-modules",
        "part0,part1,part2",
        "--threads",
        "2",
    ]
    command = [sys.executable, "-c", FACTOR, route, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) * 1024 <= max(W.nbytes + 700e6, 2 * 500e6 + 400e6)
