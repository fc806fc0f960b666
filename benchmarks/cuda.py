"""The tool on a GPU beside itself on the CPU, and a live model beside PEFT's: seconds, and whether bytes are the same.

    python benchmarks/cuda.py [--model 7b] [--live 0.5b] [--device cuda] [--compile] [--of COMMAND] [--directory DIR]
                              [NAME...]

NAME is of commands, making, passes; all by default. `commands` writes a checkpoint of Qwen2.5's shapes,
random weights with a few separated singular values, and runs each command on it from a warm cache, on the CPU and on
the device, in processes of their own: what they write is compared. `making` has PEFT make and load an adapter of the
first layers of --live, alone and within `fast_peft`. `passes` compares the plain model, ours and
PEFT's; with --compile, the first two compiled, which takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch

SETTINGS: dict[str, Any] = {"r": 2, "u": 13, "weight_tying": 1.0, "target_modules": "all-linear"}


def drawn_on(device: str) -> Callable[[tuple[int, int], int, np.random.Generator], models.Decomposed]:
    """Weights as `models` makes them, with their triplets, in a hundredth of the time."""
    from tinylora_tools.core.torch_arrays import array_of

    def decomposed(shape: tuple[int, int], r: int, rng: np.random.Generator) -> models.Decomposed:
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator, device=device)

        rows, columns = shape
        W = normal(*shape) / (rows**0.5 + columns**0.5)
        for s in models.SINGULAR_VALUES:
            u, v = normal(rows), normal(columns)
            W += torch.outer(u * (s / u.norm()), v / v.norm())
        W = W.bfloat16()
        wide, Q = W.double(), normal(columns, r + 2).double()
        for _ in range(12):
            Q = torch.linalg.qr(wide.T @ (wide @ Q)).Q
        U, S, small = torch.linalg.svd(wide @ Q, full_matrices=False)
        found = (U[:, :r], S[:r], (small @ Q.T)[:r])
        return array_of(W), tuple(array_of(part.float()) for part in found)  # type: ignore[return-value]

    return decomposed


def run(*words: object, text: str | None = None) -> float:
    """Seconds of a command in its own process."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tinylora_tools", *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"tinylora {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - started


def digest(path: Path) -> str:
    """Of the tensors' files of a directory, or of a file."""
    found = hashlib.sha256()
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    for file in files:
        found.update(file.name.encode() if path.is_dir() else b"")
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def commands(name: str, device: str, directory: Path, wanted: Sequence[str]) -> None:
    started = time.perf_counter()
    base, adapter = models.make(directory, name, decomposed=drawn_on(device))
    size = sum(file.stat().st_size for file in base.iterdir())
    print(f"{name}, {size / 1e9:.1f} GB, made in {time.perf_counter() - started:.0f} s\n")
    os.environ["TINYLORA_CACHE_DIR"] = ""
    out = directory / "out"
    packed = directory / "packed.safetensors"
    tried: dict[str, tuple[object, ...]] = {
        "merge": ("merge", adapter, "--base", base, "-o", out),
        "factor": ("factor", base, "-r", 2, "-o", out / "factors.safetensors", "--target-modules", "all-linear"),
        "init": ("init", base, "-o", out, "-r", 2, "-u", 13, "--weight-tying", 1, "--target-modules", "all-linear"),
        "verify-base": ("verify-base", adapter, "--base", base),
        "convert packed": ("convert", "packed", adapter, "--base", base, "-o", out / "packed.safetensors"),
        "convert peft": ("convert", "peft", packed, "--base", base, "-o", out),
    }
    print("| command | cpu, s | device, s | bytes |\n|---|--:|--:|---|", flush=True)
    for what, words in tried.items():
        if wanted and what not in wanted:
            continue
        took, made = [], []
        for place in ("cpu", device):
            out.mkdir(exist_ok=True)
            took.append(run(*words, "--device", place, "-q", "-f" if "-o" in words else "--json"))
            found = digest(out)
            made.append(found)
            if what == "convert packed":
                (out / "packed.safetensors").replace(packed)
            subprocess.run(["rm", "-rf", str(out)], check=True)
        same = "none" if "-o" not in words else "the same" if made[0] == made[1] else "others"
        print(f"| {what} | {took[0]:.1f} | {took[1]:.1f} | {same} |", flush=True)
    print()


def plain(name: str, layers: int, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A Qwen2 with separated singular values, on the device."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = models.config(name) | {"num_hidden_layers": layers, "vocab_size": 4096}
    del config["torch_dtype"]
    with torch.device(device):
        model = Qwen2ForCausalLM(Qwen2Config(**config)).to(device, dtype).eval()
    draw, rng = drawn_on(device), np.random.default_rng(0)
    from tinylora_tools.core.torch_arrays import tensor_of

    for key, weight in model.named_parameters():
        if key.endswith("proj.weight"):
            weight.data.copy_(tensor_of(draw(tuple(weight.shape), 2, rng)[0]))
    return model


def synchronized(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    synchronized(device)
    started = time.perf_counter()
    made = work()
    synchronized(device)
    return time.perf_counter() - started, made


def making(name: str, device: str, directory: Path) -> None:
    import peft

    from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel, fast_peft

    layers, ids = 2, torch.arange(32, device=device)[None]
    base = plain(name, layers, device)
    timed(device, lambda: base(ids).logits)
    settings = peft.TinyLoraConfig(**SETTINGS, init_weights="uniform", task_type="CAUSAL_LM")
    print(f"{layers} layers of the {name} on the device, bfloat16\n\n| what | PEFT, s | fast_peft, s | ours, s | |")
    print("|---|--:|--:|--:|---|", flush=True)
    alone, model = timed(device, lambda: peft.get_peft_model(plain(name, layers, device), settings))
    blank, _ = timed(device, lambda: plain(name, layers, device))
    model.save_pretrained(directory / "made")
    rows = {key: value for key, value in model.state_dict().items() if "tinylora_A" in key or "tinylora_B" in key}

    def fast() -> Any:
        with fast_peft():
            return peft.get_peft_model(plain(name, layers, device), settings)

    quick, other = timed(device, fast)
    own, _ = timed(device, lambda: TinyLoraModel(plain(name, layers, device), TinyLoraConfig(**SETTINGS)))
    found = other.state_dict()
    alike = torch.nn.functional.cosine_similarity
    cosines = [float(alike(_rows(key, rows[key]), _rows(key, found[key])).abs().min()) for key in rows]
    said = f"A, B up to sign: least cosine {min(cosines):.6f}"
    print(f"| make | {alone - blank:.2f} | {quick - blank:.2f} | {own - blank:.2f} | {said} |", flush=True)

    def load(fast: bool) -> Callable[[], Any]:
        def work() -> Any:
            model = plain(name, layers, device)
            if not fast:
                return peft.PeftModel.from_pretrained(model, str(directory / "made"))
            with fast_peft():
                return peft.PeftModel.from_pretrained(model, str(directory / "made"))

        return work

    alone, one = timed(device, load(False))
    quick, two = timed(device, load(True))
    own, three = timed(
        device, lambda: TinyLoraModel.from_pretrained(plain(name, layers, device), directory / "made", check_base=False)
    )
    with torch.no_grad():
        logits = [each(input_ids=ids).logits.double() for each in (one, two, three)]
    equal = "equal" if torch.equal(logits[0], logits[1]) else "not equal"
    off = float((logits[2] - logits[0]).norm() / logits[0].norm())
    print(
        f"| load | {alone - blank:.2f} | {quick - blank:.2f} | {own - blank:.2f} | logits: fast_peft {equal}, ", end=""
    )
    print(f"ours {off:.1e} off |\n", flush=True)


def _rows(key: str, values: torch.Tensor) -> torch.Tensor:
    """The vectors of A (r, in) or B (out, r), a row each."""
    return (values if "tinylora_A" in key else values.T).double()


def passes(name: str, device: str, directory: Path, compiling: bool) -> None:
    """Forward, and forward and backward: a batch of 8 x 512 tokens, and a single token."""
    import nn

    from tinylora_tools.nn import TinyLoraConfig, TinyLoraModel

    layers = models.SHAPES[name][2]
    made = TinyLoraModel(plain(name, layers, device), TinyLoraConfig(**SETTINGS, init_weights="uniform"))
    made.save_pretrained(directory / "live")
    every: dict[str, Any] = {
        "plain": plain(name, layers, device).requires_grad_(False),
        "ours": TinyLoraModel.from_pretrained(
            plain(name, layers, device), directory / "live", is_trainable=True, check_base=False
        ),
        "PEFT": nn.loaded_by_peft(plain(name, layers, device), directory / "live"),
    }
    compiled = {f"{key}, compiled": torch.compile(model) for key, model in every.items() if compiling and key != "PEFT"}
    print(f"{name}, {layers} layers, bfloat16\n\n| pass | model | ms | times the plain model's |\n|---|---|--:|--:|")
    for what, shape, backward in (
        ("forward, 8 x 512 tokens", (8, 512), False),
        ("forward, 1 token", (1, 1), False),
        ("forward and backward, 8 x 512 tokens", (8, 512), True),
    ):
        ids = torch.randint(4096, shape, device=device)

        def step(model: Any, ids: torch.Tensor = ids, backward: bool = backward) -> None:
            with torch.set_grad_enabled(backward):
                logits = model(input_ids=ids, logits_to_keep=1).logits
            if backward:
                logits.float().sum().backward()

        alone = {key: model for key, model in (every | compiled).items() if not backward or "plain" not in key}
        times: dict[str, list[float]] = {key: [] for key in alone}
        for model in alone.values():
            for _ in range(3):
                step(model)
        for _ in range(20):
            for key, model in alone.items():
                times[key].append(timed(device, lambda model=model: step(model))[0])
        first = times.get("plain") or times["PEFT"]
        for key, found in times.items():
            ratio = statistics.median(a / b for a, b in zip(found, first, strict=True))
            note = "" if "plain" in times else " (of PEFT's)"
            print(f"| {what} | {key} | {statistics.median(found) * 1e3:.2f} | {ratio:.3f}{note} |", flush=True)
    synced, _ = timed(device, lambda: every["ours"].sync_lora(lambda tensors, config: None))
    print(f"\nsync_lora to a function: {synced * 1e3:.1f} ms\n", flush=True)


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "commands": lambda chosen, directory: commands(chosen.model, chosen.device, directory, chosen.of),
    "making": lambda chosen, directory: making(chosen.live, chosen.device, directory),
    "passes": lambda chosen, directory: passes(chosen.live, chosen.device, directory, chosen.compile),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", default="7b", choices=sorted(models.SHAPES))
    parser.add_argument("--live", default="0.5b", choices=sorted(models.SHAPES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--of", action="append", default=[], metavar="COMMAND", help="again for more")
    parser.add_argument("--directory", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    what = torch.cuda.get_device_name() if chosen.device == "cuda" else chosen.device
    print(f"{what}; {len(os.sched_getaffinity(0))} cores; torch {torch.__version__}\n", flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        for part in chosen.parts or PARTS:
            try:
                PARTS[part](chosen, chosen.directory or Path(name))
            except Exception:
                traceback.print_exc()
                failed.append(part)
    if failed:
        raise SystemExit(f"failed: {json.dumps(failed)}")


if __name__ == "__main__":
    main()
