"""How llama.cpp has the weights of a class of transformers: its name for the architecture, and the rows that it moves.

llama.cpp's converter renames a checkpoint's weights and, for some classes, puts the rows of queries, keys and fused
projections into another order. A LoRA adapter's B has a weight's rows, so the same order is its own; A stays. Only
classes stand here whose adapters are, byte for byte, the released converter's; and GPT-2, where that one fails.

Source: conversion/ and src/models/ of llama.cpp 0c1e57098 (in llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MismatchError, UndeterminedError

#: A configuration and a number of rows, to the place that each row of the GGUF comes from.
Order = Callable[[Mapping[str, Any], int], NDArray[np.intp]]

#: Weights that llama.cpp's graphs multiply through build_lora_mm, or look up with an adapter: by their names there.
#: It loads an adapter for any other, and never uses it.
APPLIED = frozenset({
    "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_up", "ffn_gate", "ffn_down", "ffn_gate_inp",
    "ffn_up_shexp", "ffn_gate_shexp", "ffn_down_shexp", "ffn_gate_inp_shexp", "output", "token_embd",
})  # fmt: skip

#: The embedding, and the head that reads it where a model is tied.
EMBEDDING, HEAD = "token_embd", "output"


@dataclass(frozen=True, slots=True)
class Layout:
    """What llama.cpp makes of a class of models.

    Attributes
    ----------
    architecture : str
        `general.architecture`.
    moved : Mapping[str, Order]
        Weights whose rows are in another order, by their name within a layer.
    """

    architecture: str
    moved: Mapping[str, Order] = field(default_factory=dict)

    def order(self, name: str, config: Mapping[str, Any], rows: int) -> NDArray[np.intp] | None:
        """Where each row of a weight comes from, (rows,); None where they stay.

        Raises
        ------
        MismatchError
            If the configuration doesn't divide that many rows.
        UndeterminedError
            If the configuration doesn't say how many heads there are.
        """
        order = self.moved.get(name.rpartition(".")[2])
        return None if order is None else order(config, rows)


def number(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """A number that configurations have under several names.

    Raises
    ------
    UndeterminedError
        If none is there, or two differ.
    """
    found = {name: config[name] for name in names if isinstance(config.get(name), int)}
    if len(set(found.values())) > 1:
        said = " and ".join(f"{name}={value}" for name, value in found.items())
        raise UndeterminedError(f"config.json says {said}, which mean the same", hint="Correct the base's config.json.")
    if not found and default is None:
        raise UndeterminedError(
            f"config.json doesn't say {' or '.join(names)}", hint="Name a base with its own config.json."
        )
    return next(iter(found.values())) if found else int(default or 0)


def _heads(config: Mapping[str, Any]) -> int:
    return number(config, "num_attention_heads", "n_head")


def _split(rows: int, *sizes: int) -> NDArray[np.intp]:
    """Places of rows, as (*sizes, the rest)."""
    parts = int(np.prod(sizes))
    if parts < 1 or rows % parts:
        raise MismatchError(
            f"{rows} rows aren't divided by the {' x '.join(map(str, sizes))} that config.json tells",
            hint="Is this the adapter's base?",
        )
    return np.arange(rows).reshape(*sizes, rows // parts)


def _halves_together(heads: int, rows: int) -> NDArray[np.intp]:
    """(heads, 2, d/2) to (heads, d/2, 2): transformers rotates a head's halves, llama.cpp neighbours."""
    return _split(rows, heads, 2).swapaxes(1, 2).reshape(-1)


def _queries(config: Mapping[str, Any], rows: int) -> NDArray[np.intp]:
    return _halves_together(_heads(config), rows)


def _keys(config: Mapping[str, Any], rows: int) -> NDArray[np.intp]:
    return _halves_together(number(config, "num_key_value_heads", default=_heads(config)), rows)


def _by_kind(config: Mapping[str, Any], rows: int) -> NDArray[np.intp]:
    """(heads, 3, d) to (3, heads, d): all queries, then all keys, then all values."""
    return _split(rows, _heads(config), 3).swapaxes(0, 1).reshape(-1)


def _by_kind_in_groups(config: Mapping[str, Any], rows: int) -> NDArray[np.intp]:
    """Falcon's (groups, queries + 2, d), where a group's queries share a key and a value, to all queries, all keys, all
    values."""
    heads = _heads(config)
    if config.get("new_decoder_architecture"):
        groups = number(config, "num_kv_heads", "n_head_kv", default=heads)
    else:
        groups = 1 if config.get("multi_query", True) else heads
    if groups < 1 or heads % groups:
        raise MismatchError(f"{heads} heads aren't divided by {groups} for keys", hint="Is this the adapter's base?")
    shared = _split(rows, groups, heads // groups + 2)  # (groups, queries + 2, d)
    return np.concatenate([shared[:, :-2].reshape(-1), shared[:, -2].reshape(-1), shared[:, -1].reshape(-1)])


_ROTATED: Mapping[str, Order] = {"attn_q": _queries, "attn_k": _keys}

#: Classes of transformers to what llama.cpp makes of them.
LAYOUTS: Mapping[str, Layout] = {
    "BloomForCausalLM": Layout("bloom", {"attn_qkv": _by_kind}),
    "CohereForCausalLM": Layout("command-r"),
    "FalconForCausalLM": Layout("falcon", {"attn_qkv": _by_kind_in_groups}),
    "GPT2LMHeadModel": Layout("gpt2"),
    "GPTNeoXForCausalLM": Layout("gptneox", {"attn_qkv": _by_kind}),
    "Gemma2ForCausalLM": Layout("gemma2"),
    "Gemma3ForCausalLM": Layout("gemma3"),
    "GemmaForCausalLM": Layout("gemma"),
    "GraniteForCausalLM": Layout("granite", _ROTATED),
    "LlamaForCausalLM": Layout("llama", _ROTATED),
    "MistralForCausalLM": Layout("llama", _ROTATED),
    "MixtralForCausalLM": Layout("llama", _ROTATED),
    "Olmo2ForCausalLM": Layout("olmo2"),
    "OlmoForCausalLM": Layout("olmo", _ROTATED),
    "Phi3ForCausalLM": Layout("phi3"),
    "PhiForCausalLM": Layout("phi2"),
    "Qwen2ForCausalLM": Layout("qwen2"),
    "Qwen2MoeForCausalLM": Layout("qwen2moe"),
    "Qwen3ForCausalLM": Layout("qwen3"),
    "Qwen3MoeForCausalLM": Layout("qwen3moe"),
    "SmolLM3ForCausalLM": Layout("smollm3", _ROTATED),
    "StableLmForCausalLM": Layout("stablelm"),
    "Starcoder2ForCausalLM": Layout("starcoder2"),
}


def why_not(class_name: str, config: Mapping[str, Any]) -> str | None:
    """Why no adapter is written for a class of models; None where it is."""
    if any(isinstance(config.get(f"{kind}_config"), Mapping) for kind in ("vision", "audio", "text", "thinker")):
        return f"{class_name} has several kinds of input, whose layers llama.cpp keeps in several files"
    if class_name == "FalconForCausalLM" and config.get("alibi"):
        return "a Falcon with alibi has positions that llama.cpp's falcon doesn't compute"
    if class_name in LAYOUTS:
        return None
    if config.get("kv_lora_rank"):
        return f"{class_name} has latent attention (MLA), whose weights llama.cpp splits and transposes"
    if any(
        config.get(key) for key in ("state_size", "mamba_d_state", "ssm_cfg", "linear_key_head_dim", "mamba_expand")
    ):
        return f"{class_name} has Mamba's or linear attention's layers, whose weights llama.cpp reorders"
    return f"{class_name or 'a class without a name'} isn't among the classes whose LoRA was compared with llama.cpp's"
