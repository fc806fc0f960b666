"""Models of any family of transformers, built small: a few narrow layers, random weights."""

from __future__ import annotations

import inspect
from typing import Any

#: Small sizes, for whichever of these entries a configuration has.
SMALL: dict[str, Any] = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embedding_size": 32, "intermediate_size": 40,
    "ffn_hidden_size": 40, "d_ff": 40, "d_kv": 8, "hidden_dim": 40, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
    "ffn_dim": 40, "n_inner": 40, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 4, "num_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "global_head_dim": 8, "rotary_dim": 4, "vocab_size": 96, "max_position_embeddings": 64, "n_positions": 64,
    "max_source_positions": 32, "max_target_positions": 32, "image_size": 32, "patch_size": 16, "num_mel_bins": 8,
    "word_embed_proj_dim": 32, "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "q_lora_rank": 12,
    "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "qk_head_dim": 12, "attention_head_dim": 8, "first_k_dense_replace": 1,
    "sliding_window": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0,
    "type_vocab_size": 2, "pooler_hidden_size": 32, "classifier_proj_size": 16, "depth": 2, "embed_dim": 32,
    "out_hidden_size": 32, "projection_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "state_size": 8, "time_step_rank": 4,
    "num_kv_shared_layers": 0, "laurel_rank": 4, "shared_intermediate_size": 24, "n_mlp_hidden": 40,
    "num_attention_groups": 2, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4,
}  # fmt: skip

LAYERS = SMALL["num_hidden_layers"]

#: Families that people adapt most, of one kind of input.
TEXT = (
    "bart", "bert", "bloom", "cohere", "cohere2", "deberta-v2", "deepseek_v3", "distilbert", "electra", "falcon",
    "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gptj", "granite", "llama", "mistral", "mixtral", "olmo",
    "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "roberta", "smollm3", "stablelm", "t5",
    "vit", "whisper", "xlm-roberta",
)  # fmt: skip

#: Entries of one value a layer, which follow from the others where they are left out.
PER_LAYER = (
    "layer_types", "mlp_layer_types", "layers_block_type", "hybrid_layer_ids", "no_rope_layers", "per_layer_config",
)  # fmt: skip

_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}

#: What a small model of a family needs besides.
BESIDES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {
        "num_experts_per_tok": 2,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_key_value_heads": 4,
    },
    "deepseek_v3": {"num_key_value_heads": 4},
    "qwen2_5_vl": {"text_config": {"rope_parameters": _MROPE}},
    "qwen2_vl": {"text_config": {"rope_parameters": _MROPE}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
}


def small_settings(settings: dict[str, Any], config: Any) -> dict[str, Any]:
    """A configuration's entries with small sizes, those of inner ones too."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = getattr(config, name, None) if isinstance(value, dict) else None
        if hasattr(inner, "to_dict"):
            found[name] = small_settings(value, inner)
        elif name in PER_LAYER:
            continue
        elif isinstance(value, dict) and "mrope_section" in value:
            found[name] = {**value, "mrope_section": [2, 1, 1]}  # of a head's 8 numbers, by pairs
        elif (
            isinstance(value, list)
            and len(value) == getattr(config, "num_hidden_layers", 0) > SMALL["num_hidden_layers"]
        ):
            found[name] = SMALL.get(name, value[: SMALL["num_hidden_layers"]])
        elif name in SMALL and value is not None and type(value) in (int, float) and can_be_set(config, name):
            found[name] = SMALL[name]
        else:
            found[name] = value
    return found


def can_be_set(config: Any, name: str) -> bool:
    derived = inspect.getattr_static(type(config), name, None)
    return not (isinstance(derived, property) and derived.fset is None)


def small_config(family: str, **changes: Any) -> Any:
    """The family's configuration, small."""
    import make_architectures as script
    import transformers

    config_class = transformers.CONFIG_MAPPING[family]
    first = config_class(**script.NEEDED.get(family, {}))
    small = small_settings(first.to_dict(), first)
    return config_class.from_dict(_merged(_merged(small, BESIDES.get(family, {})), changes))


def _merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {k: v for k, v in changes.items() if isinstance(v, dict) and isinstance(settings.get(k), dict)}
    inner = {name: _merged(settings[name], value) for name, value in both.items()}
    return {**settings, **changes, **inner}


def random_model(model_class: Any, config: Any, dtype: Any, seed: int = 0) -> Any:
    """A model whose every parameter is drawn anew, so that no two are alike and none is zero or one."""
    import torch

    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.normal_(0.0, 0.2)
            if "norm" in name.lower() and parameter.dim() == 1:
                parameter.add_(1.0)
    return model.to(dtype)


def targets_of(model: Any, family: str, class_name: str) -> list[str]:
    """Every module of a model that PEFT can adapt, by name, but those that do more than their kind."""
    from tinylora_tools.bases.architectures.named import from_config
    from tinylora_tools.ops.architecture.build import kind_of

    known = from_config({"model_type": family, "architectures": [class_name]})
    names = [name for name, module in model.named_modules() if kind_of(module)]
    return [name for name in names if known is None or known.is_plain(name, "5")]
