"""The head that PEFT saves of a classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from classifiers import adapt, make_base
from damage import edit
from fixture_data import FIXTURES, Fixture
from small_model import saved

from tinylora_tools.adapters.head import Head, head_of
from tinylora_tools.formats.peft.adapter import read_adapter

pytestmark = pytest.mark.filterwarnings("ignore")


def adapted(directory: Path, class_name: str, targets: list[str], saved: list[str] | None = None) -> Head | None:
    """The head of a class with four labels."""
    make_base(directory / "base", class_name.partition("For")[0] + "Model")
    model = getattr(transformers, class_name).from_pretrained(directory / "base", num_labels=4)
    adapt(directory / "base", directory / "a", class_name, model, target_modules=targets, modules_to_save=saved)
    return head_of(read_adapter(directory / "a"))


@pytest.mark.parametrize(("class_name", "targets", "modules"), [
    ("LlamaForSequenceClassification", ["q_proj"], ("score",)),
    ("RobertaForSequenceClassification", ["query"], ("classifier.dense", "classifier.out_proj")),
    ("DistilBertForSequenceClassification", ["q_lin"], ("classifier", "pre_classifier")),
    ("BertForQuestionAnswering", ["query"], ("qa_outputs",)),
])  # fmt: skip
def test_its_modules_and_labels(class_name: str, targets: list[str], modules: tuple[str, ...], tmp_path: Path) -> None:
    head = adapted(tmp_path, class_name, targets)
    assert head is not None
    assert (head.modules, head.labels) == (modules, 4)


def test_what_else_is_saved_whole_is_none_of_it(tmp_path: Path) -> None:
    """Parts of the body, and embeddings beside it."""
    head = adapted(tmp_path, "T5ForQuestionAnswering", ["q"], ["shared", "final_layer_norm"])
    assert head is not None
    assert head.modules == ("qa_outputs",)


def test_a_head_that_peft_calls_otherwise(tmp_path: Path) -> None:
    """PEFT saves T5's only where it is named."""
    assert adapted(tmp_path / "one", "T5ForSequenceClassification", ["q"]) is None
    head = adapted(tmp_path / "two", "T5ForSequenceClassification", ["q"], ["classification_head"])
    assert head is not None
    assert (head.modules, head.labels) == (("classification_head.dense", "classification_head.out_proj"), 4)


def test_a_class_that_the_configuration_names_for_want_of_a_task(tmp_path: Path) -> None:
    head = adapted(tmp_path, "ViTForImageClassification", ["q_proj"], ["classifier"])
    assert head is not None
    assert (head.modules, head.labels) == (("classifier",), 4)


def test_other_models_have_none(tmp_path: Path) -> None:
    assert head_of(read_adapter(saved(tmp_path, modules_to_save=["head"]))) is None


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_nor_have_the_fixtures_but_those_of_classifiers(case: Fixture) -> None:
    head = head_of(read_adapter(case.adapter))
    task = read_adapter(case.adapter).config.task_type
    assert (head is not None) == (task in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"))


def test_layers_that_do_not_tell_the_labels(tmp_path: Path) -> None:
    """Several, and none of a name that is known."""
    adapted(tmp_path, "T5ForSequenceClassification", ["q"], ["classification_head"])
    edit(
        tmp_path / "a" / "adapter_model.safetensors",
        lambda t: t.update({k.replace("out_proj", "last"): t.pop(k) for k in list(t) if "out_proj" in k}),
    )
    head = head_of(read_adapter(tmp_path / "a"))
    assert head is not None
    assert (head.modules, head.labels) == (("classification_head.dense", "classification_head.last"), None)
