"""A checkpoint under the names of another class of its family, against what transformers makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from classifiers import CONFIGS, family, make_base
from safetensors.torch import load_file, save_file

from tinylora_tools.bases.architecture import Architecture, from_class_name
from tinylora_tools.bases.refit import Refit, refit
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.formats.tensors import TensorInfo

pytestmark = pytest.mark.filterwarnings("ignore")


def known(class_name: str) -> Architecture:
    found = from_class_name(class_name)
    assert found is not None
    return found


def as_class(base: Path, origin: str, target: str, **brought: tuple[int, ...]) -> Refit:
    infos = {name.replace("__", "."): TensorInfo(name, "F32", shape, 0, 0) for name, shape in brought.items()}
    return refit(read_checkpoint(base), known(origin), known(target), infos)


PAIRS = [
    (origin, target)
    for origin, targets in {
        "LlamaForCausalLM": ["LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaModel"],
        "Qwen2Model": ["Qwen2ForSequenceClassification"],
        "BertForPreTraining": ["BertForSequenceClassification", "BertForTokenClassification", "BertModel"],
        "BertModel": ["BertForQuestionAnswering"],
        "RobertaForMaskedLM": ["RobertaForSequenceClassification", "RobertaForTokenClassification"],
        "RobertaForTokenClassification": ["RobertaForSequenceClassification"],
        "DistilBertForMaskedLM": ["DistilBertForSequenceClassification", "DistilBertModel"],
        "DebertaV2ForMaskedLM": ["DebertaV2ForSequenceClassification"],
        "GPT2LMHeadModel": ["GPT2ForSequenceClassification", "GPT2Model"],
        "GPT2Model": ["GPT2ForQuestionAnswering"],
        "GPTNeoXForCausalLM": ["GPTNeoXForSequenceClassification"],
        "T5ForConditionalGeneration": ["T5ForSequenceClassification", "T5ForTokenClassification", "T5EncoderModel"],
        "BartForConditionalGeneration": ["BartForSequenceClassification", "BartForQuestionAnswering"],
        "ViTModel": ["ViTForImageClassification"],
    }.items()
    for target in targets
]


@pytest.mark.parametrize(("origin", "target"), PAIRS, ids=[" to ".join(pair) for pair in PAIRS])
def test_the_tensors_are_those_that_the_class_saves(origin: str, target: str, tmp_path: Path) -> None:
    """But for its head, which the base can't give: by name, shape and values."""
    make_base(tmp_path / "base", origin)
    model, told = getattr(transformers, target).from_pretrained(tmp_path / "base", output_loading_info=True)
    model.save_pretrained(tmp_path / "target")
    expected = load_file(tmp_path / "target" / "model.safetensors")
    found = as_class(tmp_path / "base", origin, target).checkpoint
    lacking = {key for key in expected if key in told["missing_keys"]}
    assert found.shard_of.keys() == expected.keys() - lacking
    for name in found.shard_of:
        assert torch.equal(torch.from_numpy(found.read(name)), expected[name])
    assert found.config is not None
    assert found.config["architectures"] == [target]


MISSING = [
    ("LlamaForCausalLM", "LlamaForSequenceClassification", ("score",)),
    ("BertForMaskedLM", "BertForSequenceClassification", ("bert.pooler", "classifier")),
    ("RobertaForMaskedLM", "RobertaForSequenceClassification", ("classifier.dense", "classifier.out_proj")),
    ("RobertaForTokenClassification", "RobertaForSequenceClassification", ("classifier.dense", "classifier.out_proj")),
    ("BartForCausalLM", "BartForQuestionAnswering", ("model.encoder", "qa_outputs")),
    ("T5EncoderModel", "T5ForQuestionAnswering", ("decoder", "qa_outputs")),
]


@pytest.mark.parametrize(("origin", "target", "missing"), MISSING, ids=[case[0] for case in MISSING])
def test_what_is_missing_is_what_transformers_draws_at_random(
    origin: str, target: str, missing: tuple[str, ...], tmp_path: Path
) -> None:
    changes = {"is_encoder_decoder": False} if origin == "BartForCausalLM" else {}
    make_base(tmp_path, origin, **changes)
    _, told = getattr(transformers, target).from_pretrained(tmp_path, output_loading_info=True)
    assert all(any(key.startswith(f"{module}.") for key in told["missing_keys"]) for module in missing)
    assert as_class(tmp_path, origin, target).missing == missing


def test_what_is_brought_is_listed(tmp_path: Path) -> None:
    """With the dtype of most of the base's values, or its own there; a head in another shape, a body not."""
    model = make_base(tmp_path, "BertForSequenceClassification", num_labels=3)
    state = {key: values.half() for key, values in model.state_dict().items() if key != "bert.pooler.dense.bias"}
    state["classifier.weight"] = state["classifier.weight"].float()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    query = "bert.encoder.layer.0.attention.self.query.weight"
    found = as_class(tmp_path, "BertForSequenceClassification", "BertForSequenceClassification", **{
        "classifier__weight": (5, 16), "bert__pooler__dense__bias": (16,), "classifier__bias": (3,),
        query.replace(".", "__"): (8, 16),
    })  # fmt: skip
    infos = {name: (found.checkpoint.info(name).dtype, found.checkpoint.info(name).shape) for name in (
        "classifier.weight", "bert.pooler.dense.bias", "classifier.bias", query,
    )}  # fmt: skip
    assert list(infos.values()) == [("F32", (5, 16)), ("F16", (16,)), ("F16", (3,)), ("F16", (16, 16))]
    assert found.missing == ()
    assert found.moved == ("bert.", "bert.")


def test_every_family_here_is_one_that_the_tests_make() -> None:
    assert {family(origin) for origin, _ in PAIRS} <= CONFIGS.keys()
