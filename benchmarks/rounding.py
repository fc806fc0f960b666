"""How much of an adapter's effect rounding to bfloat16 changes, beside the delta_error that a merge reports.

python benchmarks/rounding.py

A Qwen2 of random weights (8 layers, hidden size 512), 13 numbers for all 56 modules, smaller and smaller: the logits of
64 tokens, four times, of the model merged in bfloat16 and in float32, both run in float32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

import tinylora_tools as tl

SIZES = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 2048, "tie_word_embeddings": False,
}  # fmt: skip


def logits(directory: Path, tokens: torch.Tensor) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(tokens).logits


def main() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 2048, (4, 64))
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        base, adapter = top / "base", top / "adapter"
        transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)).to(torch.bfloat16).save_pretrained(base)
        tl.init(base, adapter, tl.TinyLoraConfig(r=2, u=13, weight_tying=1.0, target_modules="all-linear"))
        tensors = load_file(adapter / "adapter_model.safetensors")
        (vector,) = [key for key in tensors if "tinylora_v" in key]
        v, plain = torch.randn(13), logits(base, tokens)
        print("     |v|   delta_error   effect changed   cosine")
        for scale in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
            save_file({**tensors, vector: v * scale}, adapter / "adapter_model.safetensors", {"format": "pt"})
            report = tl.merge(adapter, top / "bf16", base, force=True)
            tl.merge(adapter, top / "f32", base, dtype="float32", force=True)
            exact, rounded = logits(top / "f32", tokens) - plain, logits(top / "bf16", tokens) - plain
            changed = float((rounded - exact).norm() / exact.norm())
            cosine = float(torch.nn.functional.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0))
            print(f"{float((v * scale).norm()):8.4f} {report.delta_error:12.1%} {changed:16.1%} {cosine:9.3f}")


if __name__ == "__main__":
    main()
