"""A LoRA adapter as mlx-lm loads it: adapters.safetensors and adapter_config.json.

===================  =========  ==========================================
key                  shape      what
===================  =========  ==========================================
``<layer>.lora_a``   (in, r)    of a Linear; of an Embedding (vocab, r)
``<layer>.lora_b``   (r, out)   of a Linear; of an Embedding (r, dim)
===================  =========  ==========================================

The update is scale * lora_a @ lora_b, added to what a Linear gives for x or an Embedding looks up. `keys` names the
layers.

Source: tuner/lora.py and tuner/utils.py of mlx-lm 0.32.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WEIGHTS_NAME = "adapters.safetensors"

#: Classes whose LoRA gives PEFT's logits in mlx-lm; their modules are called there as in transformers.
CLASSES = frozenset({
    "CohereForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GemmaForCausalLM", "GraniteForCausalLM",
    "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Olmo2ForCausalLM", "Phi3ForCausalLM",
    "PhiForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM",
    "SmolLM3ForCausalLM", "StableLmForCausalLM", "Starcoder2ForCausalLM",
})  # fmt: skip


def factor_keys(module: str) -> tuple[str, str]:
    """The keys of a layer's two factors."""
    return f"{module}.lora_a", f"{module}.lora_b"


def config_json(rank: int, modules: Sequence[str]) -> dict[str, Any]:
    """adapter_config.json of a LoRA adapter whose update is lora_a @ lora_b; `keys` alone says which layers have it."""
    parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": sorted(modules)}
    return {"fine_tune_type": "lora", "num_layers": 0, "lora_parameters": parameters}
