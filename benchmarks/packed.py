"""What packing a fully tied all-linear adapter (r=2, u=13) takes: bytes, the error that is told, seconds, memory.

    python benchmarks/packed.py [--models 0.5b 7b] [--peft] [--many 100] [--directory DIR]

The models are synthetic, of Qwen2.5's shapes, in bfloat16, and v holds bfloat16 values; the adapters' factors come from
another method than this tool's, in float32, as PEFT's do. --peft adds one layer of the 7B's shapes with factors that
the installed PEFT made, by its full decomposition, packed with and without --exact. Each row is packed and restored in
processes of their own, without factors that were kept; then restored with those that another process kept. --many makes
so many other vectors of each model's adapter, packs them, and makes a LoRA adapter of each in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import models


def run(*arguments: object) -> tuple[dict[str, Any], float, float]:
    """A command's JSON report, its seconds with the start of the process, and its peak memory in MB."""
    command = [sys.executable, "-m", "tinylora_tools", *map(str, arguments), "--json"]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"failed: {' '.join(command)}")
        output.seek(0)
        return json.load(output), time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e6


def row(name: str, base: Path, adapter: Path, directory: Path, *options: str) -> None:
    packed, restored = directory / "packed.safetensors", directory / "restored"
    report, took, peak = run("convert", "packed", adapter, "-o", packed, "--base", base, "-f", "--no-cache", *options)
    again = ("convert", "peft", packed, "-o", restored, "--base", base, "-f")
    _, back, _ = run(*again, "--no-cache")
    run(*again)
    _, kept, _ = run(*again)
    share = report["corrections"] / report["factor_entries"]
    cells = [
        name, f"{report['modules']}", f"{report['payload_bytes']}", f"{report['bytes_written']:,}",
        f"{report['bytes_read']:,}", f"{report['corrections']:,} ({share:.2%})", f"{report['error']:.1e}",
        f"{took:.1f}", f"{back:.1f}", f"{kept:.2f}", f"{peak:.0f}",
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)


def many(base: Path, adapter: Path, directory: Path, count: int) -> tuple[float, float]:
    """Seconds of packing and of making LoRA, each the median over so many adapters of one base."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    import tinylora_tools as tl

    tensors, packing, serving = load_file(adapter / "adapter_model.safetensors"), [], []
    rng = np.random.default_rng(7)
    with tempfile.TemporaryDirectory(dir=directory) as name:
        made, packed, lora = (Path(name) / part for part in ("adapter", "packed.safetensors", "lora"))
        made.mkdir()
        (made / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
        for _ in range(count):
            v = rng.standard_normal(13).astype(np.float32).view(np.uint32) & 0xFFFF0000
            tensors["base_model.tinylora_v.0"] = v.view(np.float32)
            save_file(tensors, made / "adapter_model.safetensors", metadata={"format": "pt"})
            started = time.perf_counter()
            tl.pack(made, packed, base=base, force=True)
            packing.append(time.perf_counter() - started)
            started = time.perf_counter()
            tl.to_lora(packed, lora, base=base, force=True)
            serving.append(time.perf_counter() - started)
    return float(np.median(packing)), float(np.median(serving))


def one_peft_layer(directory: Path) -> tuple[Path, Path]:
    """A single layer of the 7B's shapes, its weights as `models` makes them, adapted by PEFT itself."""
    import ml_dtypes
    import numpy as np
    import peft
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    base, adapter = directory / "qwen2-7b-layer", directory / "qwen2-7b-layer-adapter"
    if (adapter / "adapter_config.json").exists():
        return base, adapter
    settings = models.config("7b") | {"num_hidden_layers": 1, "vocab_size": 64}
    for key in ("architectures", "model_type", "torch_dtype"):
        del settings[key]
    model = Qwen2ForCausalLM(Qwen2Config(**settings)).to(torch.bfloat16)
    rng = np.random.default_rng(3)
    for _, module in model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            W = models.weight(tuple(module.weight.shape), rng).view(np.uint16)
            module.weight.data = torch.from_numpy(W.copy()).view(torch.bfloat16)
    assert ml_dtypes.bfloat16
    model.save_pretrained(base)
    warnings.simplefilter("ignore")
    config = peft.TinyLoraConfig(r=2, u=13, weight_tying=1.0, target_modules="all-linear")
    wrapped = peft.get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "tinylora_v" in name:
            parameter.data = parameter.data.normal_(std=0.05).bfloat16().float()
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(adapter)
    return base, adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["0.5b", "7b"], choices=sorted(models.SHAPES))
    parser.add_argument("--peft", action="store_true")
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "tinylora-benchmarks")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    os.environ["TINYLORA_CACHE_DIR"] = str(options.directory / "kept")
    columns = ("base", "modules", "v, bytes", "packed, bytes", "PEFT's file", "corrections", "error", "packed in, s")
    print("| " + " | ".join((*columns, "restored in, s", "again, s", "peak MB")) + " |")
    print("|" + "---|" * 11)
    for name in options.models:
        made = models.apart(models.make, options.directory, name)
        row(name, *made, options.directory)
        if options.many:
            packing, serving = models.apart(many, *made, options.directory, options.many)
            print(f"{options.many} adapters of {name}: packed in {packing:.3f} s, LoRA of each in {serving:.3f} s")
    if options.peft:
        base, adapter = models.apart(one_peft_layer, options.directory)
        row("7B's layer, PEFT", base, adapter, options.directory)
        row("the same, --exact", base, adapter, options.directory, "--exact")


if __name__ == "__main__":
    main()
