"""Merged models against the adapted ones of the installed PEFT and transformers: where ties, scales and what PEFT saves
beside factors decide the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import peft
import pytest
import torch
import transformers
from edited_files import edited_copy, without_projections
from safetensors.torch import load_file, save_file

from tinylora_tools.errors import FormatError, MismatchError, UndeterminedError
from tinylora_tools.ops.convert.lora import to_lora
from tinylora_tools.ops.merge.run import merge

pytestmark = pytest.mark.filterwarnings("ignore")


#: How far float32's noise may take logits, in units of the adapter's effect; what goes wrong here is off by 0.3.
CLOSE = 1e-3


IDS = torch.arange(3, 51).reshape(4, 12)


ENCODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


BERT = {**ENCODER, "vocab_size": 64}


GEMMA = {**BERT, "num_key_value_heads": 1, "head_dim": 8}


BART = {
    "vocab_size": 64, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 40,
}  # fmt: skip


QWEN2 = {**BERT, "num_key_value_heads": 1}


class Made(NamedTuple):
    """A base, an adapter that PEFT saved, and the logits of the model with and without it."""

    base: Path
    adapter: Path
    model_class: Any
    adapted: torch.Tensor
    plain: torch.Tensor


def load(model_class: Any, directory: Path) -> Any:
    return model_class.from_pretrained(directory).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.double()


def make(
    directory: Path, class_name: str, config: dict[str, Any], *, flag: bool | None = None, **settings: Any
) -> Made:
    """`flag` is written over the saved configuration's tie_word_embeddings."""
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory / "base")
    if flag is not None:
        path = directory / "base" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": flag}))
    adapted = peft.get_peft_model(load(model_class, directory / "base"), peft.TinyLoraConfig(r=2, u=5, **settings))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            change = torch.randn(parameter.shape) * 0.3
            parameter.data = change if "tinylora_v" in name else parameter.data + change
    adapted.save_pretrained(directory / "adapter")
    plain = logits(load(model_class, directory / "base"))
    return Made(directory / "base", directory / "adapter", model_class, logits(adapted.eval()), plain)


def distance(made: Made, found: torch.Tensor) -> float:
    """From the adapted model's logits, relative to the adapter's effect."""
    return float((found - made.adapted).norm() / (made.adapted - made.plain).norm())


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a bias tied with the head": ("BertForMaskedLM", BERT, {"target_modules": ["word_embeddings"]}),
    "the same in RoBERTa": (
        "RobertaForCausalLM",
        {**BERT, "is_decoder": True},
        {"target_modules": ["word_embeddings"]},
    ),
    "both names of a tied bias": ("BertForMaskedLM", BERT, {"target_modules": ["decoder"], "bias": "all"}),
    "a tied bias": ("BertForMaskedLM", BERT, {"target_modules": "all-linear", "bias": "all"}),
    "biases of modules_to_save": (
        "BertForSequenceClassification",
        BERT,
        {"target_modules": "all-linear", "bias": "all", "task_type": "SEQ_CLS"},
    ),
    "scaled": ("BartForCausalLM", {**BART, "scale_embedding": True}, {"target_modules": ["embed_tokens"]}),
    "not scaled": ("BartForCausalLM", BART, {"target_modules": ["embed_tokens"]}),
    "tied by name only": ("Qwen2ForCausalLM", QWEN2, {"target_modules": ["embed_tokens"], "flag": True}),
    "tied by name only, head": ("Qwen2ForCausalLM", QWEN2, {"target_modules": ["lm_head"], "flag": True}),
    "tied by name only, replaced": (
        "Qwen2ForCausalLM",
        QWEN2,
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "flag": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_computes_what_the_adapted_model_does(case: str, tmp_path: Path) -> None:
    class_name, config, settings = CASES[case]
    made = make(tmp_path, class_name, config, **settings)
    report = merge([made.adapter], tmp_path / "out", made.base)
    assert distance(made, logits(load(made.model_class, tmp_path / "out"))) <= CLOSE
    assert any("different values" in warning for warning in report.warnings) == (settings.get("flag") is True)


def test_embeddings_that_one_release_scales(tmp_path: Path) -> None:
    made = make(tmp_path, "GemmaForCausalLM", GEMMA, target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(UndeterminedError, match="is scaled by itself under one release"):
        merge([made.adapter], tmp_path / "out", made.base)
    with pytest.raises(UndeterminedError, match="is scaled by itself under one release"):
        to_lora([made.adapter], tmp_path / "lora", base=made.base)
    merge([made.adapter], tmp_path / "out", made.base, release=transformers.__version__[0])
    assert distance(made, logits(load(made.model_class, tmp_path / "out"))) <= CLOSE
    to_lora([made.adapter], tmp_path / "lora", base=made.base, release=transformers.__version__[0])
    lora = peft.PeftModel.from_pretrained(load(made.model_class, made.base), tmp_path / "lora")
    assert distance(made, logits(lora.eval())) <= CLOSE


def test_an_embedding_that_its_configuration_scales(tmp_path: Path) -> None:
    made = make(tmp_path, "BartForCausalLM", {**BART, "scale_embedding": True}, target_modules=["embed_tokens"])
    to_lora([made.adapter], tmp_path / "lora", base=made.base)
    lora = peft.PeftModel.from_pretrained(load(made.model_class, made.base), tmp_path / "lora")
    assert distance(made, logits(lora.eval())) <= CLOSE
    made.base.rename(tmp_path / "away")
    with pytest.raises(
        UndeterminedError, match=r"may be scaled, which scale_embedding in the base's config\.json says"
    ):
        to_lora([made.adapter], tmp_path / "lora2")


def _add(file: Path, name: str, tensor: torch.Tensor) -> None:
    save_file({**load_file(file), name: tensor.contiguous()}, file, metadata={"format": "pt"})


def test_tensors_that_the_index_does_not_list(tmp_path: Path) -> None:
    made = make(tmp_path, "Qwen2ForCausalLM", QWEN2, target_modules=["q_proj"])
    base = tmp_path / "sharded"
    load(made.model_class, made.base).save_pretrained(base, max_shard_size="10KB")
    last = max(path.name for path in base.glob("*.safetensors"))
    index = (base / "model.safetensors.index.json").read_bytes()
    _add(base / last, "extra", torch.zeros(3))
    merge([made.adapter], tmp_path / "out", base)
    assert (tmp_path / "out" / "model.safetensors.index.json").read_bytes() == index
    target = "model.layers.0.self_attn.q_proj.weight"
    listed = json.loads(index)["weight_map"][target]
    assert listed != last
    _add(base / last, target, load_file(base / listed)[target])
    with pytest.raises(FormatError, match=f"{target} is in {listed}, as the index says, and in {last}"):
        merge([made.adapter], tmp_path / "out2", base)


SEED_ONLY = {"r": 2, "u": 5, "save_projection": False, "weight_tying": 0.5}


def test_a_second_adapter_without_its_projections(tmp_path: Path) -> None:
    """Its P follow the first adapter's places, which nothing in its own files tells."""
    model_class = transformers.Qwen2ForCausalLM
    torch.manual_seed(0)
    model_class(transformers.Qwen2Config(**{**QWEN2, "num_hidden_layers": 4})).save_pretrained(tmp_path / "base")
    model = load(model_class, tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.TinyLoraConfig(target_modules=["q_proj", "v_proj"], **SEED_ONLY))
    adapted.add_adapter("second", peft.TinyLoraConfig(target_modules=["v_proj"], **SEED_ONLY))
    adapted.set_adapter("second")
    for name, parameter in adapted.named_parameters():
        if "tinylora_v.second" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    plain = logits(load(model_class, tmp_path / "base"))
    second = tmp_path / "adapter" / "second"
    made = Made(tmp_path / "base", second, model_class, logits(adapted.eval()), plain)
    with pytest.raises(UndeterminedError, match="holds an adapter with other targets"):
        merge([second], tmp_path / "out", made.base)
    merge([second], tmp_path / "out", made.base, first_adapter=tmp_path / "adapter")
    assert distance(made, logits(load(model_class, tmp_path / "out"))) <= CLOSE
    shutil.copytree(second, tmp_path / "alone")
    merge([tmp_path / "alone"], tmp_path / "out2", made.base)  # away from the first, it looks like any other


def test_an_added_adapter_whose_expression_matches_what_layers_wrap(tmp_path: Path) -> None:
    """PEFT counts wrapped layers twice when it groups: with P the seeds tell, without it the first adapter does."""
    model_class = transformers.Qwen2ForCausalLM
    torch.manual_seed(0)
    model_class(transformers.Qwen2Config(**{**QWEN2, "num_hidden_layers": 4})).save_pretrained(tmp_path / "base")
    model = load(model_class, tmp_path / "base")
    plain = logits(model)
    settings = {**SEED_ONLY, "save_projection": True, "weight_tying": 0.5}
    adapted = peft.get_peft_model(model, peft.TinyLoraConfig(target_modules=["q_proj", "up_proj"], **settings))
    adapted.add_adapter("second", peft.TinyLoraConfig(target_modules=r".*\.(q|v)_proj.*", **settings))
    adapted.set_adapter("second")
    for name, parameter in adapted.named_parameters():
        if "tinylora_v.second" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    made = Made(tmp_path / "base", tmp_path / "adapter" / "second", model_class, logits(adapted.eval()), plain)
    merge(made.adapter, tmp_path / "stored", made.base)
    seed_only = edited_copy(made.adapter, tmp_path / "away" / "second", without_projections)
    with pytest.raises(MismatchError, match="don't make the groups"):
        merge(seed_only, tmp_path / "out", made.base)
    merge(seed_only, tmp_path / "drawn", made.base, first_adapter=tmp_path / "adapter")
    for output in ("stored", "drawn"):
        assert distance(made, logits(load(model_class, tmp_path / output))) <= CLOSE


def test_a_module_order_of_all_modules(tmp_path: Path) -> None:
    made = make(tmp_path, "Qwen2ForCausalLM", QWEN2, target_modules=["q_proj"], save_projection=False)
    names = [name for name, _ in load(made.model_class, made.base).named_modules() if name]
    merge([made.adapter], tmp_path / "out", made.base, module_order=tuple(names))
    assert distance(made, logits(load(made.model_class, tmp_path / "out"))) <= CLOSE


def test_dense_layers_that_peft_takes_for_experts(tmp_path: Path) -> None:
    """PEFT drops their LoRA under transformers 5: the warning is to go when it no longer does."""
    experts = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "mlp_only_layers": [0]}
    targets = ["gate_proj", "up_proj", "down_proj"]
    made = make(tmp_path, "Qwen3MoeForCausalLM", {**GEMMA, **experts}, target_modules=targets)
    report = to_lora([made.adapter], tmp_path / "lora", base=made.base)
    assert any("drops what belongs to other layers, here model.layers.0.mlp" in warning for warning in report.warnings)
    lora = peft.PeftModel.from_pretrained(load(made.model_class, made.base), tmp_path / "lora")
    assert distance(made, logits(lora.eval())) > 0.99
    merge([made.adapter], tmp_path / "out", made.base)
    assert distance(made, logits(load(made.model_class, tmp_path / "out"))) <= CLOSE
