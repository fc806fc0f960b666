"""Time and memory of `tinylora merge` beside a copy of the same files, and beside PEFT's own merge.

    python benchmarks/merge.py [--directory DIR] [--sizes 0.5b,1.5b] [--runs 5] [--peft]

The copy is `cp` of the base's files followed by `sync`; the merge includes its process's start. The two take turns, so
that a noisy machine is noisy for both; medians, the ratio of the medians and that of the best runs are printed. PEFT's
is one run: loading base and adapter, merge_and_unload, save_pretrained.

The package is compiled first, as pip does when it installs, since an environment may keep Python from doing so. Where
OPENBLAS_CORETYPE is set, NumPy's products are slower than elsewhere.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import models

PEFT_MERGE = """
import sys
from transformers import AutoModelForCausalLM
from peft import PeftModel
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""


def timed(command: list[str], output: Path) -> tuple[float, float]:
    """Seconds and peak MB of a command that writes `output`, which is removed before it starts."""
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr.read().decode()}")
    return seconds, usage.ru_maxrss / (1 << 10 if sys.platform == "linux" else 1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "tinylora-benchmarks")
    parser.add_argument("--sizes", default="0.5b,1.5b")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peft", action="store_true", help="also time PEFT's merge of the first size")
    options = parser.parse_args()
    compileall.compile_dir(Path(models.__file__).parent.parent / "tinylora_tools", quiet=1)
    tinylora = str(Path(sys.executable).with_name("tinylora"))
    print(
        "| base | bytes | cp + sync | tinylora merge | ratio | best ratio | peak RSS |\n|---|---|---|---|---|---|---|"
    )
    best = {}
    for name in options.sizes.split(","):
        base, adapter = models.apart(models.make, options.directory, name)
        size = sum(path.stat().st_size for path in base.iterdir())
        copy, merged = options.directory / "copy", options.directory / "merged"
        command = [tinylora, "merge", str(adapter), "--base", str(base), "-o", str(merged), "--json"]
        copies, merges, peak = [], [], 0.0
        for _ in range(options.runs):
            copies.append(timed(["sh", "-c", f"cp -r '{base}' '{copy}' && sync"], copy)[0])
            shutil.rmtree(copy)
            seconds, megabytes = timed(command, merged)
            shutil.rmtree(merged)
            merges.append(seconds)
            peak = max(peak, megabytes)
        best[name] = statistics.median(merges)
        ratio = best[name] / statistics.median(copies)
        print(
            f"| {name} | {size / 1e9:.2f} GB | {statistics.median(copies):.2f} s | {best[name]:.2f} s | {ratio:.2f} "
            f"| {min(merges) / min(copies):.2f} | {peak:.0f} MB |",
            flush=True,
        )
    if options.peft:
        name = options.sizes.split(",")[0]
        base, adapter = models.apart(models.make, options.directory, name)
        merged = options.directory / "merged"
        command = [sys.executable, "-c", PEFT_MERGE, str(base), str(adapter), str(merged)]
        seconds, megabytes = timed(command, merged)
        shutil.rmtree(merged)
        print(f"\nPEFT, {name}: {seconds:.1f} s, {megabytes:.0f} MB: {seconds / best[name]:.0f} x the time of tinylora")


if __name__ == "__main__":
    main()
