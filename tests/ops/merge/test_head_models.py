"""Classifiers merged into bases without their head, against PEFT's live models and transformers' own loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from classifiers import Classifier, adapt, distance, load, make, make_base, scores
from damage import edit, edit_json
from safetensors.torch import load_file

from tinylora_tools import MismatchError, merge, pack

pytestmark = pytest.mark.filterwarnings("ignore")

#: How far float32's noise may take scores, in units of the adapter's effect.
CLOSE = 1e-5

#: A base's class, the classifier's, what is adapted, and what is saved whole beside what PEFT saves by itself.
CASES: list[tuple[str, str, list[str], list[str]]] = [
    ("LlamaForCausalLM", "LlamaForSequenceClassification", ["q_proj", "down_proj", "embed_tokens"], []),
    ("LlamaForCausalLM", "LlamaForTokenClassification", ["q_proj"], []),
    ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification", ["q_proj", "v_proj"], []),
    ("Qwen2Model", "Qwen2ForTokenClassification", ["q_proj"], ["norm"]),
    ("BertForPreTraining", "BertForSequenceClassification", ["query", "word_embeddings"], []),
    ("BertForMaskedLM", "BertForSequenceClassification", ["query"], ["pooler"]),
    ("BertForPreTraining", "BertForTokenClassification", ["query"], []),
    ("BertModel", "BertForQuestionAnswering", ["query"], []),
    ("RobertaForMaskedLM", "RobertaForSequenceClassification", ["query"], []),
    ("RobertaForMaskedLM", "RobertaForTokenClassification", ["query"], []),
    ("ElectraForPreTraining", "ElectraForSequenceClassification", ["query"], []),
    ("DistilBertForMaskedLM", "DistilBertForSequenceClassification", ["q_lin"], []),
    ("DistilBertForMaskedLM", "DistilBertForQuestionAnswering", ["q_lin"], []),
    ("DebertaV2ForMaskedLM", "DebertaV2ForSequenceClassification", ["query_proj"], ["pooler"]),
    ("GPT2LMHeadModel", "GPT2ForSequenceClassification", ["c_attn", "c_fc"], []),
    ("GPT2Model", "GPT2ForTokenClassification", ["c_attn"], []),
    ("GPT2Model", "GPT2ForQuestionAnswering", ["c_attn", "wte"], []),
    ("GPTNeoXForCausalLM", "GPTNeoXForSequenceClassification", ["query_key_value"], []),
    ("T5ForConditionalGeneration", "T5ForSequenceClassification", ["q"], ["classification_head"]),
    ("T5ForConditionalGeneration", "T5ForTokenClassification", ["q"], []),
    ("T5ForConditionalGeneration", "T5ForQuestionAnswering", ["q"], []),
    ("BartForConditionalGeneration", "BartForSequenceClassification", ["q_proj"], ["classification_head"]),
    ("ViTModel", "ViTForImageClassification", ["q_proj"], ["classifier"]),
]


@pytest.mark.parametrize(("base_class", "class_name", "targets", "saved"), CASES, ids=lambda value: str(value)[:60])
def test_a_base_gets_the_head_of_its_adapter(
    base_class: str, class_name: str, targets: list[str], saved: list[str], tmp_path: Path
) -> None:
    made = make(tmp_path, base_class, class_name, target_modules=targets, modules_to_save=saved or None)
    report = merge(made.adapter, tmp_path / "merged", made.base)
    merged = load(tmp_path / "merged", class_name)
    assert distance(made, scores(merged)) <= CLOSE
    assert report.head is not None
    assert report.head.class_name == class_name
    assert report.head.labels == merged.config.num_labels == (2 if "Question" in class_name else 3)
    assert report.warnings == []


def test_a_reward_model(tmp_path: Path) -> None:
    """One score, from a language model."""
    made = make(tmp_path, "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", labels=1, target_modules=["q_proj"])
    report = merge(made.adapter, tmp_path / "merged", made.base)
    merged = load(tmp_path / "merged", made.class_name)
    assert distance(made, scores(merged)) <= CLOSE
    assert (merged.config.num_labels, merged.config.id2label) == (1, {0: "LABEL_0"})
    assert report.head is not None
    assert (report.head.labels, report.head.modules) == (1, ("score",))


@pytest.mark.parametrize("bias", ["all", "tinylora_only"])
def test_biases_beside_the_head(bias: str, tmp_path: Path) -> None:
    made = make(
        tmp_path, "BertForPreTraining", "BertForSequenceClassification", target_modules=["query", "pooler.dense"],
        bias=bias,
    )  # fmt: skip
    merge(made.adapter, tmp_path / "merged", made.base)
    assert distance(made, scores(load(tmp_path / "merged", made.class_name))) <= CLOSE


def question_answering(tmp_path: Path, *, loaded: bool) -> Classifier:
    """Llama's class for it calls `transformer` what the others call `model`, and from_pretrained doesn't see to it."""
    base, name = tmp_path / "base", "LlamaForQuestionAnswering"
    language_model = make_base(base, "LlamaForCausalLM")
    model, told = transformers.LlamaForQuestionAnswering.from_pretrained(base, output_loading_info=True)
    assert "transformer.layers.0.mlp.up_proj.weight" in told["missing_keys"]
    if loaded:
        model.transformer.load_state_dict(language_model.model.state_dict())
    adapted = adapt(base, tmp_path / "adapter", name, model, target_modules=["q_proj", "up_proj"])
    with adapted.disable_adapter():
        plain = scores(adapted)
    return Classifier(base, tmp_path / "adapter", name, scores(adapted), plain)


def test_a_body_that_has_another_name_in_the_class(tmp_path: Path) -> None:
    made = question_answering(tmp_path, loaded=True)
    merge(made.adapter, tmp_path / "merged", made.base)
    assert distance(made, scores(load(tmp_path / "merged", made.class_name))) <= CLOSE


def test_an_adapter_of_a_body_that_was_left_at_random(tmp_path: Path) -> None:
    made = question_answering(tmp_path, loaded=False)
    with pytest.raises(MismatchError, match="don't belong to this weight") as caught:
        merge(made.adapter, tmp_path / "merged", made.base)
    assert "LlamaForQuestionAnswering calls transformer what this base calls model" in (caught.value.hint or "")


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_shards_of_16_bits(dtype: str, tmp_path: Path) -> None:
    """The head has the base's dtype, as PEFT loads it into that; it takes the place of the shard that held lm_head."""
    base, name = tmp_path / "base", "LlamaForSequenceClassification"
    model = make_base(base, "LlamaForCausalLM").to(torch.bfloat16)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="3KB")
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    index = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    assert sum(shard == index["lm_head.weight"] for shard in index.values()) == 1
    loaded = transformers.LlamaForSequenceClassification.from_pretrained(base, num_labels=3)
    assert loaded.dtype == torch.bfloat16
    adapt(base, tmp_path / "adapter", name, loaded, target_modules=["q_proj", "up_proj"])
    whole = load_file(tmp_path / "adapter" / "adapter_model.safetensors")["base_model.model.score.weight"]
    merge(tmp_path / "adapter", tmp_path / "merged", base, dtype=dtype)
    assert sorted(path.name for path in (tmp_path / "merged").glob("*.safetensors")) == shards
    found = load(tmp_path / "merged", name)
    expected = torch.float32 if dtype == "float32" else torch.bfloat16
    assert {parameter.dtype for parameter in found.parameters()} == {expected}
    assert torch.equal(found.score.weight.data, whole.to(expected))
    written = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert written["weight_map"]["score.weight"] == index["lm_head.weight"]
    held = {key for path in (tmp_path / "merged").glob("*.safetensors") for key in load_file(path)}
    assert held == written["weight_map"].keys() == (index.keys() - {"lm_head.weight"}) | {"score.weight"}
    assert written["metadata"]["total_size"] == sum(p.numel() * p.itemsize for p in found.parameters())


#: What checkpoints on the Hub hold beside their class's tensors: buffers of older releases, a pooler that the class
#: lacks, heads of the pretraining; norms by their oldest names.
EXTRAS = [
    ("GPT2Model", "GPT2ForSequenceClassification", ["c_attn"], {"h.0.attn.bias": (1, 1, 8, 8)}, {}),
    ("BertForPreTraining", "BertForSequenceClassification", ["query"], {"bert.embeddings.position_ids": (1, 40)},
     {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}),
    ("RobertaForMaskedLM", "RobertaForSequenceClassification", ["query"],
     {"roberta.pooler.dense.weight": (16, 16), "roberta.pooler.dense.bias": (16,)}, {}),
    ("DebertaV2ForMaskedLM", "DebertaV2ForTokenClassification", ["query_proj"],
     {"mask_predictions.LayerNorm.weight": (16,), "lm_predictions.lm_head.dense.weight": (16, 16)}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("base_class", "class_name", "targets", "extra", "older"), EXTRAS, ids=[e[0] for e in EXTRAS])
def test_what_checkpoints_hold_beside(
    base_class: str,
    class_name: str,
    targets: list[str],
    extra: dict[str, tuple[int, ...]],
    older: dict[str, str],
    tmp_path: Path,
) -> None:
    made = make(tmp_path, base_class, class_name, target_modules=targets)

    def change(tensors: dict[str, Any]) -> None:
        for key in list(tensors):
            for new, old in older.items():
                if key.endswith(new):
                    tensors[key.removesuffix(new) + old] = tensors.pop(key)
        tensors |= {name: np.ones(shape, np.float32) for name, shape in extra.items()}

    edit(made.base / "model.safetensors", change)
    edit_json(made.base / "config.json", architectures=None if base_class.startswith("Deberta") else [base_class])
    merge(made.adapter, tmp_path / "merged", made.base)
    assert distance(made, scores(load(tmp_path / "merged", class_name))) <= CLOSE


def test_a_pickled_base_that_lists_tied_tensors_twice(tmp_path: Path) -> None:
    made = make(tmp_path, "GPT2LMHeadModel", "GPT2ForSequenceClassification", target_modules=["c_attn", "wte"])
    state = transformers.GPT2LMHeadModel.from_pretrained(made.base).state_dict()
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    (made.base / "model.safetensors").unlink()
    torch.save(state, made.base / "pytorch_model.bin")
    merge(made.adapter, tmp_path / "merged", made.base)
    assert distance(made, scores(load(tmp_path / "merged", made.class_name))) <= CLOSE


def test_a_packed_classifier(tmp_path: Path) -> None:
    """Its base's weights are read for its factors, and kept for the sums under the names that they get."""
    made = make(tmp_path, "GPT2Model", "GPT2ForSequenceClassification", target_modules=["c_attn"])
    pack(made.adapter, tmp_path / "packed.safetensors", base=made.base)
    for name, source in (("plain", made.adapter), ("packed", tmp_path / "packed.safetensors")):
        merge(source, tmp_path / name, made.base)
    plain, packed = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "packed"))
    assert plain.keys() == packed.keys()
    assert torch.equal(plain["score.weight"], packed["score.weight"])
    assert distance(made, scores(load(tmp_path / "packed", made.class_name))) <= CLOSE
