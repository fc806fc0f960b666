"""Updates in the weights, and out of them bit for bit; ties, scales, and what may not be done meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from live_models import CASES, built, off, ours, output
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from tinylora_tools import FormatError, MismatchError, UnsupportedError
from tinylora_tools.nn import TinyLoraConfig
from tinylora_tools.nn.merging import scale_of

ALL: dict[str, Any] = {"target_modules": "all-linear", "u": 4, "init_weights": "uniform", "init_v_bound": 0.5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_merges_leave_the_weights_as_they_were(dtype: torch.dtype) -> None:
    """W + d - d isn't W; this is."""
    mine = ours(built("qwen2", dtype), **ALL)
    before = {key: tensor.clone() for key, tensor in mine.state_dict().items()}
    for _ in range(30):
        with torch.no_grad():
            for v in mine.tinylora_v.parameters():
                v.add_(0.01)
        mine.merge_adapter()
        mine.unmerge_adapter()
    after = mine.state_dict()
    assert all(torch.equal(after[key], t) for key, t in before.items() if not key.startswith("tinylora_v"))


def test_adapters_merge_together_and_one_after_the_other() -> None:
    inputs = CASES["qwen2"].inputs
    mine = ours(built("qwen2"), **ALL)
    mine.add_adapter("b", TinyLoraConfig(**ALL), init_seed=3)
    mine.set_adapter(["default", "b"])
    beside = output(mine, inputs)
    mine.merge_adapter(["default"])
    mine.merge_adapter(["default", "b"])
    assert off(output(mine, inputs), beside) < 1e-5
    mine.unmerge_adapter()
    assert torch.equal(output(mine, inputs), beside)


def test_a_tied_weight_is_merged_where_its_adapter_is_only(tmp_path: Path) -> None:
    settings = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
    }
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**settings, num_hidden_layers=1, tie_word_embeddings=True)).eval()
    mine = ours(model, target_modules=["lm_head"], u=4)
    inputs = CASES["qwen2"].inputs
    beside = output(mine, inputs)
    mine.merge_adapter()
    assert off(output(mine, inputs), beside) < 1e-5
    mine.unmerge_adapter()
    assert mine.model.lm_head.weight is mine.model.model.embed_tokens.weight  # type: ignore[union-attr]
    merged: Any = mine.merge_and_unload()
    assert off(output(merged, inputs), beside) < 1e-5
    assert merged.config.tie_word_embeddings is False
    merged.save_pretrained(tmp_path)
    assert off(output(Qwen2ForCausalLM.from_pretrained(tmp_path).eval(), inputs), beside) < 1e-5


def test_an_embedding_s_update_goes_behind_its_scale() -> None:
    """PEFT's forward adds it there, PEFT's merge in front of it."""
    mine = ours(built("gemma3"), target_modules=["embed_tokens"], u=4)
    inputs = CASES["gemma3"].inputs
    beside, base = output(mine, inputs), output(built("gemma3"), inputs)
    assert off(beside, base) > 1e-3
    mine.merge_adapter()
    assert off(output(mine, inputs), beside) < 1e-5


class Odd(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids).abs()


def test_an_embedding_that_does_more_is_not_merged() -> None:
    assert scale_of(nn.Embedding(4, 3), "e") == 1.0
    for odd in (Odd(50, 3), nn.Embedding(4, 3, max_norm=1.0)):
        with pytest.raises(UnsupportedError) as caught:
            scale_of(odd, "e")
        assert caught.value.where == "e"


def test_a_merge_that_is_not_finite_leaves_nothing_merged() -> None:
    mine = ours(built("qwen2"), **ALL)
    before = {key: tensor.clone() for key, tensor in mine.state_dict().items()}
    group = mine._wrapped[-1].group["default"]
    with torch.no_grad():
        mine.tinylora_v["default"][group].fill_(float("inf"))  # type: ignore[index]
    with pytest.raises(FormatError, match="isn't finite") as caught:
        mine.merge_adapter(safe_merge=True)
    assert caught.value.where == mine._wrapped[-1].name
    assert not any(layer.merged for layer in mine._wrapped)
    after = mine.state_dict()
    assert all(torch.equal(after[key], t) for key, t in before.items() if not key.startswith("tinylora_v"))


def test_a_v_that_changed_while_merged_is_noticed() -> None:
    mine = ours(built("qwen2"), **ALL)
    inputs = CASES["qwen2"].inputs
    mine.merge_adapter()
    v = next(iter(mine.tinylora_v.parameters()))
    v.data.add_(1.0)
    with pytest.raises(MismatchError, match="has changed since it was merged") as caught:
        output(mine, inputs)
    assert "merge_adapter again" in (caught.value.hint or "")
    mine.unmerge_adapter()
    beside = output(mine, inputs)
    mine.merge_adapter()
    assert off(output(mine, inputs), beside) < 1e-5


def test_what_would_go_wrong_while_merged_is_refused() -> None:
    mine = ours(built("qwen2"), **ALL)
    mine.merge_adapter()
    for call in (lambda: mine.set_adapter("default"), lambda: mine.delete_adapter("default")):
        with pytest.raises(MismatchError, match="are merged"):
            call()
    with pytest.raises(MismatchError, match="are merged"):
        output(mine, CASES["qwen2"].inputs, adapter_names=["default", "default"])


def test_a_second_adapter_s_factors_are_of_the_weight_without_the_first() -> None:
    mine, other = ours(built("qwen2"), **ALL), ours(built("qwen2"), **ALL)
    mine.merge_adapter()
    mine.add_adapter("b", TinyLoraConfig(**ALL))
    mine.unmerge_adapter()
    other.add_adapter("b", TinyLoraConfig(**ALL))
    here, there = mine.adapter_state_dict("b"), other.adapter_state_dict("b")
    assert all(torch.equal(here[key], tensor) for key, tensor in there.items())


def test_disabling_a_merged_model_gives_the_base() -> None:
    mine, inputs = ours(built("qwen2"), **ALL), CASES["qwen2"].inputs
    mine.merge_adapter()
    merged = output(mine, inputs)
    with mine.disable_adapter():
        assert torch.equal(output(mine, inputs), output(built("qwen2"), inputs))
    assert torch.equal(output(mine, inputs), merged)


def test_a_model_that_was_converted_while_merged_unmerges_so() -> None:
    mine = ours(built("qwen2"), **ALL)
    mine.merge_adapter()
    mine.bfloat16()
    mine.unmerge_adapter()
    assert {p.dtype for p in mine.parameters()} == {torch.bfloat16}
    assert torch.equal(
        mine._wrapped[0].weight, built("qwen2", torch.bfloat16).get_parameter("model.layers.0.self_attn.q_proj.weight")
    )
