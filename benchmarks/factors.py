"""Singular triplets beside torch's and scipy's, on 7B-shaped layers and on a whole 0.5B-shaped checkpoint.

    python benchmarks/factors.py [--device cuda] [--rank 2] [--runs 3] [--peft] [--memory] [--directory DIR]

The layers are bfloat16, of three spectra: a few separated values over noise, a power law s_i ~ i^-0.5, and Gaussian,
which has no gaps. The full decomposition is `torch.linalg.svd` of the widened weight, as PEFT calls it; svd_lowrank and
svds are raised (power iterations; tolerance) until their residuals are no more than ours, or, where none are, to the
first setting within a tenth of the least that they reach. All measure a call, the best of the runs but for the full
decomposition's, which is one. Residuals are max(||W v - s u||, ||W^T u - s v||) / s_1, the largest over triplets, in
float64.

--peft times PEFT's get_peft_model on a 0.5B-shaped model in memory beside what `tinylora init` does of it: reading all
linear weights from the files and factoring them. --memory runs `tinylora factor` on a 1.5B-shaped embedding, the
largest tensor, and on down_proj, and prints the peaks beside the promise: the largest tensor's bytes and 700 MB.

The layers need scipy, which nothing else here does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import models
import torch
from torch import Tensor

from tinylora_tools.cli.shell.process import keep_freed_memory
from tinylora_tools.core.svd.triplets import top_triplets

SHAPES = ((3584, 3584), (512, 3584), (18_944, 3584), (3584, 18_944))
Triplets = tuple[Tensor, Tensor, Tensor]


def separated(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Eight values from 8 to 1.8 over noise of spectral norm 1."""
    W = torch.randn(rows, columns, generator=generator) / (rows**0.5 + columns**0.5)
    U = torch.linalg.qr(torch.randn(rows, 8, generator=generator)).Q
    V = torch.linalg.qr(torch.randn(columns, 8, generator=generator)).Q
    return (W + (U * torch.tensor([8.0, 6.5, 5.0, 4.0, 3.2, 2.6, 2.2, 1.8])) @ V.T).to(torch.bfloat16)


def power_law(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Values that fall as i^-0.5, between random bases that are orthonormal."""
    k = min(rows, columns)
    U = torch.linalg.qr(torch.randn(rows, k, generator=generator)).Q
    V = torch.linalg.qr(torch.randn(columns, k, generator=generator)).Q
    return ((U * torch.arange(1, k + 1) ** -0.5) @ V.T).to(torch.bfloat16)


def gaussian(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator).to(torch.bfloat16)


SPECTRA = {"separated": separated, "power law": power_law, "gaussian": gaussian}


def full(W: Tensor, r: int) -> Triplets:
    U, S, Vh = torch.linalg.svd(W.float(), full_matrices=False)
    return U[:, :r], S[:r], Vh[:r]


def ours(W: Tensor, r: int) -> Triplets:
    found = top_triplets(W, r)
    return found.U, found.S, found.Vh


def lowrank(W: Tensor, r: int, niter: int) -> Triplets:
    torch.manual_seed(0)
    U, S, V = torch.svd_lowrank(W.float(), q=max(16, r + 6), niter=niter)
    return U[:, :r], S[:r], V.T[:r]


def svds(W: Tensor, r: int, tolerance: float) -> Triplets:
    from scipy.sparse.linalg import svds as of_scipy

    U, S, Vh = of_scipy(W.float().cpu().numpy(), k=r, tol=tolerance, random_state=0)
    order = S.argsort()[::-1]
    return tuple(torch.from_numpy(part.copy()) for part in (U[:, order], S[order], Vh[order]))  # type: ignore[return-value]


def residual(W: Tensor, found: Triplets) -> float:
    """Over row blocks, so that W needs no copy in float64."""
    U, S, Vh = (part.double().to(W.device) for part in found)
    right, left = torch.zeros(len(S), device=W.device).double(), torch.zeros_like(Vh)
    for first in range(0, W.shape[0], 1024):
        block, rows = W[first : first + 1024].double(), U[first : first + 1024]
        right += ((block @ Vh.T - rows * S) ** 2).sum(0)
        left += rows.T @ block
    off = torch.maximum(right.sqrt(), torch.linalg.vector_norm(left - S[:, None] * Vh, dim=1))
    return float(off.max() / S[0])


def seconds(call: Callable[[], Triplets], runs: int, device: torch.device) -> tuple[float, Triplets]:
    best = float("inf")
    for _ in range(runs):
        started = time.perf_counter()
        found = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best, found


def equally_good(kind: str, W: Tensor, r: int, wanted: float, runs: int) -> tuple[float, float]:
    """Time and residual of another method at the first setting whose residual is no more than ours.

    Where none is, at the first whose residual is within a tenth of the least: more work doesn't help any more.
    """
    settings = (2, 4, 8, 16, 32, 64) if kind == "svd_lowrank" else (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 0)
    method = lowrank if kind == "svd_lowrank" else svds
    tried = []
    for setting in settings:
        took, found = seconds(lambda setting=setting: method(W, r, setting), 1, W.device)
        tried.append((residual(W, found), took, setting))
        if tried[-1][0] <= wanted:
            break
    enough = max(wanted, 1.1 * min(tried)[0])
    reached, took, setting = next(one for one in tried if one[0] <= enough)
    if runs > 1 and took < 10:
        took = min(took, seconds(lambda: method(W, r, setting), runs - 1, W.device)[0])
    return took, reached


def layers(r: int, runs: int, device: torch.device) -> None:
    for spectrum, make in SPECTRA.items():
        print(f"\n{spectrum}, r={r}, {device}: seconds (residual)")
        print("| shape | tinylora | full SVD | svd_lowrank | svds |\n|---|---|---|---|---|")
        totals = [0.0] * 4
        for number, shape in enumerate(SHAPES):
            W = make(*shape, torch.Generator().manual_seed(number)).to(device)
            results = []
            took, found = seconds(lambda W=W: ours(W, r), runs, device)
            wanted = residual(W, found)
            results.append((took, wanted))
            took, found = seconds(lambda W=W: full(W, r), 1, device)
            results.append((took, residual(W, found)))
            for kind in ("svd_lowrank", "svds"):
                if spectrum == "gaussian" or (kind == "svds" and device.type != "cpu"):
                    results.append((float("nan"), float("nan")))
                else:
                    results.append(equally_good(kind, W, r, wanted, runs))
            totals = [total + took for total, (took, _) in zip(totals, results, strict=True)]
            cells = [f"{took:.3f} ({off:.1e})" if took == took else "-" for took, off in results]
            print(f"| {shape[0]} x {shape[1]} | " + " | ".join(cells) + " |", flush=True)
        first = totals[0]
        cells = [f"{total:.2f} ({total / first:.0f} x)" if total == total else "-" for total in totals]
        print("| total | " + " | ".join(cells) + " |", flush=True)


def beside_peft(directory: Path, r: int, runs: int, device: torch.device) -> None:
    """PEFT's get_peft_model beside reading and factoring the same weights from the files."""
    import warnings

    import peft
    from transformers import AutoModelForCausalLM

    from tinylora_tools import TinyLoraConfig
    from tinylora_tools.bases.base import open_base
    from tinylora_tools.bases.modules import open_model
    from tinylora_tools.ops.create.init import factors_of
    from tinylora_tools.ops.create.plan import plan_adapter
    from tinylora_tools.progress import NoProgress

    warnings.simplefilter("ignore")
    base, _ = models.make(directory, "0.5b")
    config = TinyLoraConfig(r=r, u=13, weight_tying=1.0, target_modules="all-linear")
    mine = []
    for _ in range(runs):
        started = time.perf_counter()
        at = open_base(base)  # anew, with its headers
        factors_of(plan_adapter(at, open_model(at), config), device, NoProgress())
        mine.append(time.perf_counter() - started)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    started = time.perf_counter()
    peft.get_peft_model(model, peft.TinyLoraConfig(r=r, u=13, weight_tying=1.0, target_modules="all-linear"))
    theirs = time.perf_counter() - started
    every = ", ".join(f"{took:.2f}" for took in mine)
    print(f"\n0.5B, r={r}: get_peft_model {theirs:.1f} s; read and factored {every} s: {theirs / min(mine):.1f} x")


def memory(directory: Path) -> None:
    """Peak memory of `tinylora factor` on the largest tensor, and on others that are factored side by side."""
    base, _ = models.apart(models.make, directory, "1.5b")
    hidden, intermediate, _, _, _, vocab, _ = models.SHAPES["1.5b"]
    output = directory / "factors.safetensors"
    print("| 1.5B, bfloat16 | r | largest tensor, MB | promise, MB | peak, MB |\n|---|--:|--:|--:|--:|")
    for target, rows in (("embed_tokens", vocab), ("down_proj", intermediate)):
        for r in (2, 16):
            output.unlink(missing_ok=True)
            command = [sys.executable, "-m", "tinylora_tools", "factor", str(base), "-o", str(output), "-q"]
            process = subprocess.Popen([*command, "-r", str(r), "--target-modules", target], stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit("factor failed")
            stored, peak = rows * hidden * 2 / 1e6, usage.ru_maxrss * 1024 / 1e6
            print(f"| {target} | {r} | {stored:.0f} | {stored + 700:.0f} | {peak:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "tinylora-benchmarks")
    parser.add_argument("--no-layers", action="store_true")
    parser.add_argument("--peft", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.memory:  # first: a child's peak memory counts what its parent had
        memory(options.directory)
    keep_freed_memory()
    device = torch.device(options.device)
    if not options.no_layers:
        layers(options.rank, options.runs, device)
    if options.peft:
        beside_peft(options.directory, options.rank, options.runs, device)


if __name__ == "__main__":
    main()
