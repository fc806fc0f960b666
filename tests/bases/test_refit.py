"""A checkpoint under the names of another class of its family, against what transformers makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import make_architectures as script
import pytest
import small_families
import torch
import transformers
from classifiers import CONFIGS, family, make_base
from safetensors.torch import load_file, save_file

from tinylora_tools.adapters.head import LABELLED
from tinylora_tools.bases.architectures.architecture import Architecture
from tinylora_tools.bases.architectures.named import from_class_name
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


def checkpoints(family_name: str, directory: Path) -> Iterator[tuple[str, Path]]:
    """Language models and bare ones of a family, saved small."""
    for origin in known_classes(family_name):
        if origin.endswith((*LANGUAGE_MODELS, "Model")):
            getattr(transformers, origin)(small_families.small_config(family_name)).save_pretrained(directory / origin)
            yield origin, directory / origin


LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM", "ForPreTraining")


def known_classes(family_name: str) -> list[str]:
    bare, *names = script.classes(family_name)
    return [bare, *(name for name in names if not name.endswith("Model") or name.endswith(LANGUAGE_MODELS))]


@pytest.mark.slow
@pytest.mark.parametrize("family_name", small_families.TEXT)
def test_every_classifier_of_every_family(family_name: str, tmp_path: Path) -> None:
    """What is kept and what is missing, as transformers loads it; where it leaves the body at random, the base's."""
    targets = [name for name in known_classes(family_name) if name.endswith(LABELLED)]
    for origin, base in checkpoints(family_name, tmp_path) if targets else ():
        if origin == "BartForCausalLM":
            continue  # half of the body, under the name of its tie
        for target in targets:
            model, told = getattr(transformers, target).from_pretrained(base, output_loading_info=True)
            found = as_class(base, origin, target)
            model.save_pretrained(tmp_path / "target")
            expected = saved_in(tmp_path / "target")
            lacking, (old, new) = set(told["missing_keys"]), found.moved
            if old and new and old != new:
                body = {new + key.removeprefix(old): v for key, v in saved_in(base).items() if key.startswith(old)}
                expected = {key: values for key, values in expected.items() if not key.startswith(new)} | body
                lacking = {key for key in lacking if not key.startswith(new)}
            assert found.checkpoint.shard_of.keys() == expected.keys() - lacking, (origin, target)
            of_module = {name: [key for key in lacking if key.startswith(f"{name}.")] for name in found.missing}
            assert {key for keys in of_module.values() for key in keys} == lacking
            assert all(of_module.values())
            for name in found.checkpoint.shard_of:
                assert torch.equal(torch.from_numpy(found.checkpoint.read(name)), expected[name]), name


def saved_in(directory: Path) -> dict[str, torch.Tensor]:
    return {key: values for path in directory.glob("*.safetensors") for key, values in load_file(path).items()}


def test_every_family_here_is_one_that_the_tests_make() -> None:
    assert {family(origin) for origin, _ in PAIRS} <= CONFIGS.keys()
