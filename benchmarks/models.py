"""Synthetic checkpoints of real models' shapes, and adapters for them, for the benchmarks.

The weights are bfloat16: a few separated singular values over noise, so that top singular vectors are well determined.
The adapters are in PEFT's format, with the factors of these very weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

#: Shapes of Qwen2.5: hidden, intermediate, layers, heads, key-value heads, vocabulary, tied embeddings. `tiny` is
#: nobody's model: with it a benchmark shows in seconds that it runs.
SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "tiny": (64, 160, 2, 4, 2, 512, True),
    "0.5b": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5b": (1536, 8960, 28, 12, 2, 151_936, True),
    "7b": (3584, 18_944, 28, 28, 4, 152_064, False),
}
SINGULAR_VALUES = (8.0, 4.0, 2.0)


def config(name: str) -> dict[str, Any]:
    """config.json of a Qwen2 model of that size."""
    hidden, intermediate, layers, heads, kv_heads, vocab, tied = SHAPES[name]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    }


def linears(name: str) -> list[tuple[str, tuple[int, int]]]:
    """The Linear layers in named_modules() order, with their (out, in)."""
    hidden, intermediate, layers, heads, kv_heads, _, _ = SHAPES[name]
    kv = hidden // heads * kv_heads
    found = []
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        found += [
            (prefix + "self_attn.q_proj", (hidden, hidden)),
            (prefix + "self_attn.k_proj", (kv, hidden)),
            (prefix + "self_attn.v_proj", (kv, hidden)),
            (prefix + "self_attn.o_proj", (hidden, hidden)),
            (prefix + "mlp.gate_proj", (intermediate, hidden)),
            (prefix + "mlp.up_proj", (intermediate, hidden)),
            (prefix + "mlp.down_proj", (hidden, intermediate)),
        ]
    return found


def weight(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """A bfloat16 matrix with separated top singular values over noise of spectral norm 1 or so."""
    rows, columns = shape
    W = rng.standard_normal(shape, np.float32) / (np.sqrt(rows) + np.sqrt(columns))
    for s in SINGULAR_VALUES:
        u, v = rng.standard_normal(rows, np.float32), rng.standard_normal(columns, np.float32)
        W += np.outer(u * (s / np.linalg.norm(u)), v / np.linalg.norm(v)).astype(np.float32)
    return W.astype(ml_dtypes.bfloat16)


def top_triplets(W: np.ndarray[Any, Any], r: int) -> tuple[Any, Any, Any]:
    """The top r singular triplets by subspace iteration: quick, since the values are well separated."""
    wide = W.astype(np.float32)
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((wide.shape[1], r + 2)).astype(np.float32))[0]
    for _ in range(12):
        Q = np.linalg.qr(wide.T @ (wide @ Q))[0]
    U, S, small = np.linalg.svd(wide @ Q, full_matrices=False)
    return U[:, :r], S[:r], (small @ Q.T)[:r]


Decomposed = tuple[np.ndarray[Any, Any], tuple[Any, Any, Any]]


def decomposed(shape: tuple[int, int], r: int, rng: np.random.Generator) -> Decomposed:
    """A weight and its top r triplets."""
    W = weight(shape, rng)
    return W, top_triplets(W, r)


def make(
    directory: Path,
    name: str,
    *,
    r: int = 2,
    u: int = 13,
    shard_bytes: int = 1_000_000_000,
    decomposed: Callable[[tuple[int, int], int, np.random.Generator], Decomposed] = decomposed,
) -> tuple[Path, Path]:
    """Write a base in shards and an all-linear, fully tied adapter; both are kept for the next run."""
    base, adapter = directory / f"qwen2-{name}", directory / f"qwen2-{name}-adapter"
    if (adapter / "adapter_config.json").exists():
        return base, adapter
    base.mkdir(parents=True, exist_ok=True)
    adapter.mkdir(exist_ok=True)
    (base / "config.json").write_text(json.dumps(config(name), indent=2))
    factors: dict[str, Any] = {}
    shards = _Shards(base, shard_bytes)
    for tensor, values in _tensors(name, factors, r, u, decomposed):
        shards.add(tensor, values)
    shards.finish()
    rng = np.random.default_rng(1)
    v = rng.standard_normal(u) * 0.05
    factors["base_model.tinylora_v.0"] = v.astype(ml_dtypes.bfloat16).astype(np.float32)
    save_file(factors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "TINYLORA",
        "peft_version": "0.21.2",
        "base_model_name_or_path": str(base),
        "r": r,
        "u": u,
        "weight_tying": 1.0,
        "projection_seed": 42,
        "save_projection": True,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        "bias": "none",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(settings, indent=2))
    return base, adapter


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function makes in a process of its own: the peak memory of a child counts what its parent had."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _tensors(
    name: str, factors: dict[str, Any], r: int, u: int, decomposed: Callable[..., Decomposed]
) -> Iterator[tuple[str, Any]]:
    from tinylora_tools.core.streams.projection import draw, round_to

    rng = np.random.default_rng(0)
    hidden, _, layers, _, _, vocab, tied = SHAPES[name]
    for tensor in ("model.embed_tokens.weight",) if tied else ("model.embed_tokens.weight", "lm_head.weight"):
        yield tensor, (rng.standard_normal((vocab, hidden), np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    for index, (module, shape) in enumerate(linears(name)):
        W, triplets = decomposed(shape, r, rng)
        U, S, Vh = (part.astype(ml_dtypes.bfloat16) for part in triplets)
        root = np.sqrt(S.astype(np.float32)).astype(ml_dtypes.bfloat16)
        prefix = f"base_model.model.{module}.tinylora_"
        factors[prefix + "A"] = (root[:, None] * Vh).astype(np.float32)
        factors[prefix + "B"] = (U * root).astype(np.float32)
        factors[prefix + "P"] = round_to(draw(42 + index, u, r), "bfloat16")
        yield f"{module}.weight", W
        if module.endswith(("q_proj", "k_proj", "v_proj")):
            yield f"{module}.bias", np.zeros(shape[0], ml_dtypes.bfloat16)
    norms = [
        f"model.layers.{i}.{kind}" for i in range(layers) for kind in ("input_layernorm", "post_attention_layernorm")
    ]
    for norm in [*norms, "model.norm"]:
        yield f"{norm}.weight", np.ones(hidden, ml_dtypes.bfloat16)


class _Shards:
    """Writes tensors into shards of about a given size, and their index."""

    def __init__(self, directory: Path, most: int) -> None:
        self._directory, self._most = directory, most
        self._files: list[list[str]] = []
        self._pending: dict[str, Any] = {}
        self._total = 0

    def add(self, name: str, values: Any) -> None:
        if self._pending and sum(v.nbytes for v in self._pending.values()) + values.nbytes > self._most:
            self._flush()
        self._pending[name] = values
        self._total += values.nbytes

    def _flush(self) -> None:
        self._files.append(list(self._pending))
        save_file(self._pending, self._directory / f"part-{len(self._files)}", metadata={"format": "pt"})
        self._pending = {}

    def finish(self) -> None:
        self._flush()
        count, weight_map = len(self._files), {}
        for number, names in enumerate(self._files, start=1):
            file = f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
            (self._directory / f"part-{number}").rename(self._directory / file)
            weight_map |= dict.fromkeys(names, file)
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            (self._directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
