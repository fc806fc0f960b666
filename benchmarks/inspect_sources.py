"""Time of `tinylora inspect`, process start included: a small adapter, and a checkpoint of many shards.

python benchmarks/inspect_sources.py [--runs 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinylora_tools.formats.safetensors_file import build_header

ADAPTER = Path(__file__).parent.parent / "fixtures" / "peft021-13-numbers" / "adapter"


def make_checkpoint(directory: Path, shards: int, tensors: int) -> None:
    """A mixture of experts by its names, with tensors of two numbers each."""
    each = tensors // shards
    weight_map = {}
    for number in range(1, shards + 1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        names = [f"model.layers.{number}.mlp.experts.{i}.gate_proj.weight" for i in range(each)]
        header, infos = build_header([(name, "BF16", (1, 2)) for name in names], {"format": "pt"})
        (directory / file).write_bytes(header + bytes(4 * len(infos)))
        weight_map |= dict.fromkeys(names, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
    (directory / "config.json").write_text(json.dumps(config))


def median(command: list[str], runs: int) -> float:
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    tinylora = str(Path(sys.executable).with_name("tinylora"))
    print("| source | median | of Python's own start |\n|---|---|---|")
    bare = median([sys.executable, "-c", ""], options.runs)
    with tempfile.TemporaryDirectory() as directory:
        make_checkpoint(Path(directory), 200, 50_000)
        for what, source in (("adapter, 84 modules", ADAPTER), ("checkpoint, 200 shards, 50,000 tensors", directory)):
            for form in ("--json",), ():
                seconds = median([tinylora, "inspect", str(source), *form], options.runs)
                print(f"| {what}{' (JSON)' if form else ''} | {seconds:.2f} s | {seconds / bare:.0f} x |", flush=True)


if __name__ == "__main__":
    main()
