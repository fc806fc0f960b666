"""A live TinyLoRA model beside PEFT's and the plain model: making, loading, passes, merging and syncing.

    python benchmarks/nn.py [--layers 24] [--made 1] [--tokens 128] [--runs 5] [--dtype float32]

The model has Qwen2.5-0.5B's shapes and random weights with a few separated singular values; the adapter is all-linear,
r=2, u=13, one shared v. Passes are timed in turn, one run of each after the other, with one thread, by the thread's own
time, which other processes disturb least; printed is the median, and the median of the runs' ratios to the first.
Making and loading decompose whole weights in PEFT, so they are timed on a model of --made layers, the better of two
runs; --layers 0 leaves out the rest. PEFT's model for the passes gets its factors from the file, its decomposition
skipped: everything after is PEFT's own. Peaks are those of a process for each, of one forward and backward pass, beside
what the process held before.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import models
import peft
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel

CONFIG: dict[str, Any] = {"r": 2, "u": 13, "weight_tying": 1.0, "target_modules": "all-linear"}


def plain(layers: int, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    settings = {**models.config("0.5b"), "num_hidden_layers": layers}
    torch.set_default_dtype(dtype)
    try:
        model = Qwen2ForCausalLM(Qwen2Config(**settings)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, weight in model.named_parameters():
        if name.endswith("proj.weight"):
            for s in models.SINGULAR_VALUES:
                u, v = (torch.randn(n) for n in weight.shape)
                weight.data += torch.outer(u / u.norm() * s, v / v.norm()).to(dtype)
    return model


def loaded_by_peft(model: Any, directory: Path) -> Any:
    """PEFT's model with the adapter of a file; its decomposition would only be overwritten, and is left out."""
    from peft.tuners.tinylora.layer import TinyLoraLayer

    def without(self: Any, name: str, r: int, fan_in_fan_out: bool) -> None:
        weight = self.get_base_layer().weight
        self.tinylora_A[name] = weight.new_zeros(r, weight.shape[1])
        self.tinylora_B[name] = weight.new_zeros(weight.shape[0], r)
        self.r[name] = r

    before, TinyLoraLayer._init_svd = TinyLoraLayer._init_svd, without
    try:
        return peft.PeftModel.from_pretrained(model, str(directory), is_trainable=True).eval()
    finally:
        TinyLoraLayer._init_svd = before


def seconds(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def in_turn(works: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(runs):
        for name, work in works.items():
            found[name].append(seconds(work))
    return found


def table(what: str, found: dict[str, list[float]]) -> None:
    first = next(iter(found.values()))
    for name, times in found.items():
        ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
        print(f"| {what} | {name} | {statistics.median(times):.3f} | {ratio:.3f} |", flush=True)


def making(layers: int, dtype: torch.dtype, directory: Path) -> None:
    ours = TinyLoraModel(plain(layers, dtype), TinyLoraConfig(**CONFIG))
    ours.save_pretrained(directory / "made")
    works: dict[str, tuple[Callable[[Any], object], Callable[[Any], object]]] = {
        "making": (
            lambda model: TinyLoraModel(model, TinyLoraConfig(**CONFIG)),
            lambda model: peft.get_peft_model(model, peft.TinyLoraConfig(**CONFIG)),
        ),
        "loading": (
            lambda model: TinyLoraModel.from_pretrained(model, directory / "made"),
            lambda model: peft.PeftModel.from_pretrained(model, str(directory / "made")),
        ),
    }
    for what, (here, there) in works.items():
        times = []
        for work in (here, there):
            model = plain(layers, dtype)
            times.append(min(seconds(partial(work, model)) for model in (plain(layers, dtype), model)))
        mine, theirs = times
        print(f"| {what}, {layers} layer(s) | {mine:.2f} | {theirs:.2f} | {theirs / mine:.0f} x |", flush=True)


def build(kind: str, layers: int, dtype: torch.dtype, directory: Path) -> Any:
    model = plain(layers, dtype)
    if kind == "plain":
        return model
    if kind == "ours":
        return TinyLoraModel.from_pretrained(model, directory, is_trainable=True, check_base=False)
    return loaded_by_peft(model, directory)


def passes(layers: int, dtype: torch.dtype, tokens: int, runs: int, directory: Path) -> None:
    ids = torch.arange(tokens)[None]
    all_models = {kind: build(kind, layers, dtype, directory) for kind in ("plain", "ours", "PEFT")}
    for parameter in all_models["plain"].parameters():
        parameter.requires_grad_(False)

    def forward(model: Any) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                model(input_ids=ids)

        return run

    def both(model: Any) -> Callable[[], object]:
        return lambda: model(input_ids=ids).logits.sum().backward()

    table(f"forward, {tokens} tokens", in_turn({k: forward(m) for k, m in all_models.items()}, runs))
    trained = {k: both(m) for k, m in all_models.items() if k != "plain"}
    table(f"forward + backward, {tokens} tokens", in_turn(dict(sorted(trained.items(), key=lambda i: i[0])), runs))
    ours = all_models["ours"]

    def merge_and_back() -> None:
        ours.merge_adapter()
        ours.unmerge_adapter()

    def write() -> None:
        ours.sync_lora(directory.parent / "lora")

    def merge_by_peft() -> None:
        all_models["PEFT"].merge_adapter()
        all_models["PEFT"].unmerge_adapter()

    found = in_turn(
        {
            "PEFT's merge and unmerge": merge_by_peft,
            "merge and unmerge": merge_and_back,
            "sync_lora, a function": lambda: ours.sync_lora(lambda tensors, config: None),
            "sync_lora, a directory": write,
        },
        runs,
    )
    table("a step's sync", found)


def peak_so_far() -> int:
    """Kilobytes that the process held at most (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


def peak(kind: str, layers: int, dtype: torch.dtype, tokens: int, directory: Path) -> None:
    """In a process of its own: the peak of a forward and backward pass over what was held before."""
    model = build(kind, layers, dtype, directory)
    Path("/proc/self/clear_refs").write_text("5")  # what was the peak so far is forgotten
    before = peak_so_far()
    embedded = model.get_input_embeddings()(torch.arange(tokens)[None]).detach().requires_grad_()
    model(inputs_embeds=embedded, logits_to_keep=1).logits.sum().backward()
    after = peak_so_far()
    print(f"| {kind} | {before // 1024} | {(after - before) // 1024} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--made", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--adapter", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dtype = getattr(torch, chosen.dtype)
    if chosen.peak:
        peak(chosen.peak, chosen.layers, dtype, chosen.tokens, chosen.adapter)
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if chosen.made:
            print("| what | ours, s | PEFT, s | |\n|---|--:|--:|--:|")
            making(chosen.made, dtype, directory)
        if not chosen.layers:
            return
        started = time.thread_time()
        whole = TinyLoraModel(plain(chosen.layers, dtype), TinyLoraConfig(**{**CONFIG, "init_weights": "uniform"}))
        print(f"\nmade, {chosen.layers} layers, with the model: {time.thread_time() - started:.1f} s\n")
        whole.save_pretrained(directory / "adapter")
        del whole
        print("| what | model | s | times |\n|---|---|--:|--:|")
        passes(chosen.layers, dtype, chosen.tokens, chosen.runs, directory / "adapter")
        print("\n| model | held before, MB | a pass more, MB |\n|---|--:|--:|")
        for kind in ("plain", "ours", "PEFT"):
            command = [sys.executable, __file__, "--peak", kind, "--adapter", str(directory / "adapter")]
            command += ["--layers", str(chosen.layers), "--tokens", str(chosen.tokens), "--dtype", chosen.dtype]
            subprocess.run(command, check=True, env=os.environ)


if __name__ == "__main__":
    main()
