"""PEFT's LoRA dialect, as PEFT 0.21.2 writes it and vLLM, SGLang and llama.cpp read it.

======================================================  ==============  ====================
key                                                     shape           what
======================================================  ==============  ====================
``base_model.model.<module>.lora_A.weight``             (r, in)         of Linear and Conv1D
``base_model.model.<module>.lora_B.weight``             (out, r)
``base_model.model.<module>.lora_embedding_A``          (r, vocab)      of an Embedding
``base_model.model.<module>.lora_embedding_B``          (dim, r)
======================================================  ==============  ====================

The update is (lora_alpha / r) B A, (out, in); an embedding's is (lora_alpha / r) (B A)^T, (vocab, dim). A module whose
r isn't the configuration's stands in its `rank_pattern`, and its alpha in `alpha_pattern`.

Source: peft/tuners/lora/layer.py and config.py of PEFT 0.21.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PEFT_VERSION = "0.21.2"

#: LoraConfig's other fields with their defaults.
_DEFAULTS: dict[str, Any] = {
    "alora_invocation_tokens": None, "arrow_config": None, "auto_mapping": None, "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None, "inference_mode": True,
    "init_lora_weights": True, "kasa_config": None, "layer_replication": None, "loftq_config": {}, "lora_bias": False,
    "lora_dropout": 0.0, "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core",
    "monteclora_config": None, "peft_type": "LORA", "peft_version": PEFT_VERSION, "qalora_group_size": 16,
    "target_parameters": None, "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False, "velora_config": None,
}  # fmt: skip

#: TinyLoraConfig's values of `bias` as LoraConfig calls them.
_BIAS = {"none": "none", "all": "all", "tinylora_only": "lora_only"}


def factor_keys(module: str, *, embedding: bool) -> tuple[str, str]:
    """The keys of a module's A and B."""
    if embedding:
        return (f"base_model.model.{module}.lora_embedding_A", f"base_model.model.{module}.lora_embedding_B")
    return (f"base_model.model.{module}.lora_A.weight", f"base_model.model.{module}.lora_B.weight")


def config_json(
    adapter: Mapping[str, Any],
    *,
    rank: int,
    ranks: Mapping[str, int],
    targets: str | Sequence[str],
    transposed: bool,
) -> dict[str, Any]:
    """adapter_config.json of a LoRA adapter whose update is B A, made of a TinyLoRA adapter's configuration.

    `ranks` names the modules whose rank isn't `rank`; `transposed` says whether any is a Conv1D.
    """
    kept = (
        "base_model_name_or_path",
        "revision",
        "task_type",
        "modules_to_save",
        "layers_to_transform",
        "layers_pattern",
    )
    return {
        **_DEFAULTS,
        **{key: adapter.get(key) for key in kept},
        "bias": _BIAS.get(adapter.get("bias") or "none", "none"),
        "fan_in_fan_out": transposed,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": dict(ranks),
        "alpha_pattern": dict(ranks),
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
    }
