"""Orders of rows, against the reshapes of llama.cpp's converter; configurations that don't tell."""

from __future__ import annotations

import numpy as np
import pytest

from tinylora_tools.errors import MismatchError, UndeterminedError
from tinylora_tools.formats.gguf.layout import LAYOUTS, number, why_not

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def test_rotated_rows_pair_what_transformers_has_a_half_apart() -> None:
    order = LAYOUTS["LlamaForCausalLM"].order("blk.1.attn_k", HEADS, 16)
    assert order is not None
    assert order[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert sorted(order) == list(range(16))
    assert LAYOUTS["LlamaForCausalLM"].order("blk.1.attn_v", HEADS, 16) is None
    assert LAYOUTS["LlamaForCausalLM"].order("blk.0.attn_k", {"num_attention_heads": 2}, 4).tolist() == [0, 1, 2, 3]  # type: ignore[union-attr]


def test_fused_rows_are_sorted_by_kind() -> None:
    order = LAYOUTS["BloomForCausalLM"].order("blk.0.attn_qkv", {"n_head": 2}, 6)
    assert order is not None
    assert order.tolist() == [0, 3, 1, 4, 2, 5]
    falcon = LAYOUTS["FalconForCausalLM"]
    shared = {"num_attention_heads": 2, "multi_query": True}
    assert np.array_equal(falcon.order("blk.0.attn_qkv", shared, 8), np.arange(8))  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match="4 heads aren't divided by 3"):
        falcon.order("attn_qkv", {"n_head": 4, "num_kv_heads": 3, "new_decoder_architecture": True}, 24)


def test_numbers_are_not_guessed() -> None:
    assert number({"n_head": 3}, "num_attention_heads", "n_head") == 3
    assert number({"n_head": None}, "n_head", default=7) == 7
    with pytest.raises(UndeterminedError, match="a=1 and b=2"):
        number({"a": 1, "b": 2}, "a", "b")
    with pytest.raises(MismatchError, match="16 rows aren't divided"):
        LAYOUTS["OlmoForCausalLM"].order("attn_q", {"num_attention_heads": 0}, 16)


def test_reasons() -> None:
    assert why_not("LlamaForCausalLM", {}) is None
    assert "alibi" in (why_not("FalconForCausalLM", {"alibi": True}) or "")
    assert "isn't among" in (why_not("NoSuchModel", {}) or "")
