"""Which class and head a merge gives to a base, whose labels stay, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from classifiers import adapt, distance, load, make, make_base, scores
from damage import edit, edit_json

from tinylora_tools import MismatchError, UndeterminedError, UnsupportedError, merge

pytestmark = pytest.mark.filterwarnings("ignore")

#: How far float32's noise may take scores, in units of the adapter's effect.
CLOSE = 1e-5


def test_another_head_than_the_base_s(tmp_path: Path) -> None:
    """A reward model, on a base that was a classifier of three: neither its head nor its labels stay."""
    make_base(tmp_path / "base", "Qwen2ForSequenceClassification", num_labels=3)
    edit_json(tmp_path / "base" / "config.json", problem_type="single_label_classification", num_labels=3)
    model = transformers.Qwen2ForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=1, problem_type="regression", ignore_mismatched_sizes=True
    )
    adapted = adapt(tmp_path / "base", tmp_path / "adapter", type(model).__name__, model, target_modules=["q_proj"])
    merge(tmp_path / "adapter", tmp_path / "merged", tmp_path / "base")
    merged = load(tmp_path / "merged", type(model).__name__)
    assert (merged.config.num_labels, merged.config.problem_type) == (1, None)
    assert torch.allclose(scores(merged), scores(adapted), rtol=1e-5, atol=1e-5)


def test_labels_keep_their_names_where_as_many_are_named(tmp_path: Path) -> None:
    made = make(tmp_path, "BertModel", "BertForTokenClassification", target_modules=["query"])
    names = {"id2label": {"0": "O", "1": "B", "2": "I"}, "label2id": {"O": 0, "B": 1, "I": 2}}
    edit_json(made.base / "config.json", **names)
    merge(made.adapter, tmp_path / "merged", made.base)
    assert load(tmp_path / "merged", made.class_name).config.id2label == {0: "O", 1: "B", 2: "I"}
    edit_json(made.base / "config.json", id2label={"0": "x"}, label2id={"x": 0})
    merge(made.adapter, tmp_path / "other", made.base)
    config = load(tmp_path / "other", made.class_name).config
    assert config.id2label == {i: f"LABEL_{i}" for i in range(3)}
    assert config.label2id == {f"LABEL_{i}": i for i in range(3)}


def test_a_base_that_has_the_head_is_merged_as_it_is(tmp_path: Path) -> None:
    """Byte for byte in its own layout, whatever its configuration says of labels."""
    make_base(tmp_path / "base", "BertForSequenceClassification", num_labels=3)
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    adapt(tmp_path / "base", tmp_path / "adapter", type(model).__name__, model, target_modules=["query"])
    report = merge(tmp_path / "adapter", tmp_path / "merged", tmp_path / "base")
    assert report.head is None
    configs = [(tmp_path / name / "config.json").read_bytes() for name in ("base", "merged")]
    assert configs[0] == configs[1]
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("base", "merged")]
    assert sizes[0] == sizes[1]


LOST = [
    ("BertForMaskedLM", "BertForSequenceClassification", ["query"], r"has bert\.pooler, which neither"),
    ("DebertaV2Model", "DebertaV2ForSequenceClassification", ["query_proj"], r"has pooler\.dense, which neither"),
    ("T5ForConditionalGeneration", "T5ForSequenceClassification", ["q"], r"classification_head\.dense and 1 more, wh"),
    ("T5EncoderModel", "T5ForSequenceClassification", ["q"], r"classification_head\.dense and 2 more"),
]


@pytest.mark.parametrize(("base_class", "class_name", "targets", "said"), LOST, ids=[case[1] for case in LOST])
def test_what_was_drawn_at_random_and_not_saved_is_not_made_up(
    base_class: str, class_name: str, targets: list[str], said: str, tmp_path: Path
) -> None:
    made = make(tmp_path, base_class, class_name, target_modules=targets)
    with pytest.raises(UndeterminedError, match=said) as caught:
        merge(made.adapter, tmp_path / "merged", made.base)
    assert "name {} in modules_to_save".format("classification_head" if "T5" in class_name else "pooler") in str(
        caught.value.hint
    )
    assert not (tmp_path / "merged").exists()


def test_a_family_that_is_not_known(tmp_path: Path) -> None:
    made = make(tmp_path, "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", target_modules=["q_proj"])
    edit_json(made.base / "config.json", model_type="nobody", architectures=["NobodyForCausalLM"])
    with pytest.raises(UndeterminedError, match=r"score\.weight is of a classifier's head.* 'nobody' isn't known"):
        merge(made.adapter, tmp_path / "merged", made.base)


def test_a_family_without_such_a_class(tmp_path: Path) -> None:
    made = make(tmp_path, "LlamaForCausalLM", "LlamaForSequenceClassification", target_modules=["q_proj"])
    edit_json(made.base / "config.json", model_type="cohere", architectures=["CohereForCausalLM"])
    with pytest.raises(UnsupportedError, match="no class for the task SEQ_CLS of cohere is known"):
        merge(made.adapter, tmp_path / "merged", made.base)


def test_several_adapters(tmp_path: Path) -> None:
    """One of the language model comes along; another class, or another head, doesn't."""
    made = make(tmp_path, "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", target_modules=["q_proj"])
    language_model = transformers.Qwen2ForCausalLM.from_pretrained(made.base)
    adapt(made.base, tmp_path / "lm", "Qwen2ForCausalLM", language_model, target_modules=["up_proj"])
    merge([tmp_path / "lm", made.adapter], tmp_path / "merged", made.base)
    merge(made.adapter, tmp_path / "one", made.base)
    both, one = (load(tmp_path / name, made.class_name).state_dict() for name in ("merged", "one"))
    changed = [name for name in both if not torch.equal(both[name], one[name])]
    assert changed == [f"model.layers.{i}.mlp.up_proj.weight" for i in range(2)]
    for class_name, said in (("TokenClassification", "was trained as Qwen2ForTokenC"), ("Sequence", "different value")):
        model = getattr(transformers, f"Qwen2For{class_name}".replace("Sequence", "SequenceClassification"))
        other = tmp_path / class_name
        adapt(
            made.base, other, model.__name__, model.from_pretrained(made.base, num_labels=3), target_modules=["q_proj"]
        )
        if class_name == "Sequence":
            edit(other / "adapter_model.safetensors", lambda t: t["base_model.model.score.weight"].fill(1.0))
        with pytest.raises(MismatchError, match=said):
            merge([made.adapter, other], tmp_path / "m", made.base)


@pytest.mark.parametrize("name", ["extra.weight", "model.layers.7.mlp.up_proj.weight", "lm_head.weight"])
@pytest.mark.parametrize("shape", [(16,), (3, 16)], ids=str)
def test_what_the_class_does_not_have_has_no_place(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    made = make(tmp_path, "LlamaForCausalLM", "LlamaForSequenceClassification", target_modules=["q_proj"])
    edit(
        made.adapter / "adapter_model.safetensors",
        lambda t: t.update({f"base_model.model.{name}": np.ones(shape, np.float32)}),
    )
    with pytest.raises(MismatchError, match=f"no tensor for {name}"):
        merge(made.adapter, tmp_path / "merged", made.base)


def test_an_adapter_that_names_a_task_and_has_no_head(tmp_path: Path) -> None:
    """PEFT would have saved one: the adapted model had none, so the base stays what it is."""
    model = make_base(tmp_path / "base", "LlamaForCausalLM")
    adapt(tmp_path / "base", tmp_path / "a", "LlamaForCausalLM", model, target_modules=["q_proj"], task_type="SEQ_CLS")
    report = merge(tmp_path / "a", tmp_path / "merged", tmp_path / "base")
    assert report.warnings == ["a is said to be a classifier's, and holds no head: the base stays LlamaForCausalLM"]
    assert report.head is None


def test_a_base_that_names_no_class(tmp_path: Path) -> None:
    made = make(tmp_path, "GPT2Model", "GPT2ForSequenceClassification", target_modules=["c_attn"])
    edit_json(made.base / "config.json", architectures=None)
    merge(made.adapter, tmp_path / "merged", made.base)
    assert distance(made, scores(load(tmp_path / "merged", made.class_name))) <= CLOSE


def test_the_padding_token_is_said(tmp_path: Path) -> None:
    made = make(tmp_path, "LlamaForCausalLM", "LlamaForSequenceClassification", target_modules=["q_proj"])
    edit_json(made.base / "config.json", pad_token_id=None)
    report = merge(made.adapter, tmp_path / "merged", made.base)
    assert ["nothing names a padding token" in text for text in report.warnings] == [True]


def test_what_is_said(tmp_path: Path, tinylora: Any) -> None:
    made = make(tmp_path, "RobertaForMaskedLM", "RobertaForSequenceClassification", target_modules=["query"])
    result = tinylora("merge", made.adapter, "--base", made.base, "-o", tmp_path / "merged")
    text = " ".join(result.out.split())
    assert "head classifier.dense, classifier.out_proj with 3 labels: RobertaForSequenceClassification" in text
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "It is a RobertaForSequenceClassification with 3 labels" in card
