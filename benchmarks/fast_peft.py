"""PEFT's TinyLoRA made and loaded within `fast_peft`, and without: seconds and peak memory on a 0.5B-shaped model.

    python benchmarks/fast_peft.py [--size 0.5b] [--layers N] [--dtype bfloat16] [--spectrum separated] [--runs 3]
                                   [--threads 2] [--no-peft] [--of WHAT] [--directory DIR]

The model has all layers, or the first N, of Qwen2.5's shape and a vocabulary of 1,000, which no adapter here touches.
Its weights have separated singular values over noise (`separated`, as benchmarks/models.py makes them) or are as
transformers initialises them (`gaussian`, without gaps: the worst case). The adapter is of all linear layers, r=2,
u=13. Each figure is of a process of its own, which first has the base in memory: the seconds that get_peft_model,
from_pretrained, and from_pretrained with low_cpu_mem_usage take, in brackets those of the processor, which other work
changes less, and the most memory that the process had, the base included. Runs with and without take turns;
of PEFT's own there is one, of ours there are --runs. The logits of loaded adapters are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch

WHAT = ("base", "make", "load", "load, low_cpu_mem_usage")


def prepared(directory: Path, size: str, layers: int | None, spectrum: str, dtype: str) -> Path:
    """The model, made once and kept."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    from tinylora_tools.core.torch_arrays import tensor_of

    layers = layers or models.SHAPES[size][2]
    path = directory / f"fast-peft-{size}-{layers}-{spectrum}-{dtype}"
    if (path / "config.json").exists():
        return path
    torch.manual_seed(0)
    config = Qwen2Config(**{**models.config(size), "vocab_size": 1000, "num_hidden_layers": layers})
    model = AutoModelForCausalLM.from_config(config)
    rng = np.random.default_rng(0)
    if spectrum == "separated":
        for name, shape in models.linears(size)[: 7 * layers]:
            model.get_submodule(name).weight.data.copy_(tensor_of(models.weight(shape, rng)))
    model.to(getattr(torch, dtype)).save_pretrained(path)
    return path


def one(base: Path, adapter: Path, what: str, how: str, threads: int) -> dict[str, Any]:
    """Seconds, peak memory, and what the model says."""
    from peft import PeftModel, TinyLoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tinylora_tools.nn import fast_peft

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model(torch.arange(8)[None])  # all of it in memory
    settings = {"r": 2, "u": 13, "weight_tying": 1.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    started, used = time.perf_counter(), time.process_time()
    with fast_peft() if how == "fast_peft" else nullcontext():
        if what == "make":
            model = get_peft_model(model, TinyLoraConfig(**settings, init_weights="uniform"))
        elif what != "base":
            model = PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage="low_cpu" in what)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if what == "make" and not adapter.exists():
        model.save_pretrained(adapter)
    said = float(model(torch.arange(8)[None]).logits.double().square().sum())
    return {"seconds": seconds, "used": used, "peak": peak, "said": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.5b", choices=models.SHAPES)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--spectrum", default="separated", choices=["separated", "gaussian"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-peft", action="store_true")
    parser.add_argument("--of", action="append", choices=WHAT, help="one of the rows; again for more")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "tinylora-benchmarks")
    parser.add_argument("--one", nargs=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    base = prepared(options.directory, options.size, options.layers, options.spectrum, options.dtype)
    adapter = base.with_name(base.name + "-adapter")
    if options.one:
        print(json.dumps(one(base, adapter, *options.one, options.threads)))
        return

    def run(what: str, how: str) -> dict[str, Any]:
        command = [sys.executable, *sys.argv, "--one", what, how]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return result

    layers = options.layers or models.SHAPES[options.size][2]
    print(f"{options.size}, {layers} layers, {options.dtype}, {options.spectrum}, {options.threads} threads")
    print("| | PEFT, s | fast_peft, s | times | PEFT, peak MB | fast_peft, peak MB | logits |")
    print("|---|--:|--:|--:|--:|--:|---|", flush=True)
    for what in options.of or WHAT:
        ours = [run(what, "fast_peft")]
        theirs = run(what, "PEFT") if what == "base" or not options.no_peft else None
        ours += [run(what, "fast_peft") for _ in range(options.runs - 1)]
        every = ", ".join(said_of(run) for run in ours)
        peak = max(run["peak"] for run in ours) / 1e6
        if theirs is None or what == "base":
            print(f"| {what} | - | {every} | - | - | {peak:.0f} | - |", flush=True)
            continue
        times = [theirs[key] / min(run[key] for run in ours) for key in ("seconds", "used")]
        row = f"| {what} | {said_of(theirs)} | {every} | {times[0]:.1f} ({times[1]:.1f}) | {theirs['peak'] / 1e6:.0f} |"
        same = "-" if what == "make" else "equal" if theirs["said"] == ours[0]["said"] else "differ"
        print(row, f"{peak:.0f} | {same} |", flush=True)


def said_of(run: dict[str, Any]) -> str:
    return f"{run['seconds']:.2f} ({run['used']:.2f})"


if __name__ == "__main__":
    main()
