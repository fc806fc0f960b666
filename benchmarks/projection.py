"""Time of drawing P for many modules: both streams in NumPy beside torch's own loop.

    python benchmarks/projection.py [--modules 10000] [--shapes 64x2,1x1,64x4] [--runs 9]

torch's loop is `torch.normal` with a fresh generator a module, as PEFT calls it, copied into one array. The three take
turns, so that a noisy machine is noisy for all; the best runs are printed, and their ratios to torch's.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np
import torch

from tinylora_tools.core.streams.projection import STREAMS, draw_many


def best_times(modules: int, u: int, r: int, runs: int) -> dict[str, float]:
    """Seconds of each stream's best run."""
    best = dict.fromkeys(STREAMS, float("inf"))
    for _ in range(runs):
        for stream in STREAMS:
            started = time.perf_counter()
            draw_many(range(modules), u, r, stream=stream)
            best[stream] = min(best[stream], time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=10_000)
    parser.add_argument("--shapes", default="64x2,1x1,13x3,64x4", help="u x r, separated by commas")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()

    print(f"{options.modules:,} modules, best of {options.runs}; seconds (times torch's)")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads;")
    print(f"NumPy {np.__version__}, Python {platform.python_version()}\n")
    print("| u | r | torch's loop | torch-cpu-avx2 | torch-cpu-scalar |")
    print("|--:|--:|--:|--:|--:|")
    for shape in options.shapes.split(","):
        u, r = map(int, shape.split("x"))
        best = best_times(options.modules, u, r, options.runs)
        ours = [f"{best[stream]:.3f} ({best[stream] / best['torch']:.2f})" for stream in STREAMS[:2]]
        print(f"| {u} | {r} | {best['torch']:.3f} | {' | '.join(ours)} |")


if __name__ == "__main__":
    main()
