"""What config.json says of a classifier, as transformers reads it."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylora_tools.adapters.head import Head
from tinylora_tools.bases.architectures.architecture import Architecture
from tinylora_tools.bases.architectures.named import from_class_name
from tinylora_tools.formats.tensors import TensorInfo
from tinylora_tools.ops.merge.labels import label_config, pad_config

SCORE = Head({"score.weight": TensorInfo("s", "F32", (3, 4), 0, 48)}, 3)


def known(class_name: str) -> Architecture:
    found = from_class_name(class_name)
    assert found is not None
    return found


named = st.integers(1, 5).map(lambda n: {"id2label": {str(i): f"name {i}" for i in range(n)}})
configs = st.one_of(
    st.just({}), named, st.builds(lambda one, n: one | {"num_labels": n}, st.just({}), st.integers(1, 5))
)


@settings(deadline=None, max_examples=60)
@given(config=configs, labels=st.integers(1, 5), problem=st.sampled_from([None, "single_label_classification"]))
@pytest.mark.parametrize("class_name", ["BertForTokenClassification", "BertForQuestionAnswering"])
def test_transformers_counts_as_many_labels(
    class_name: str, config: dict[str, Any], labels: int, problem: str | None
) -> None:
    """Whatever the base's configuration says of its own; names stay where as many are named."""
    config = config | ({"problem_type": problem} if problem else {})
    found = {**config, **label_config(config, known(class_name), labels)}
    read = transformers.BertConfig.from_dict(found)
    assert read.num_labels == labels
    if "label2id" in found:
        assert read.label2id == {name: i for i, name in read.id2label.items()}
    if len(config.get("id2label", {})) == labels:
        assert read.id2label == {i: f"name {i}" for i in range(labels)}
    elif "id2label" in found:
        assert read.id2label == {i: f"LABEL_{i}" for i in range(labels)}


def test_two_labels_are_written_for_a_classifier_and_not_for_question_answering() -> None:
    assert label_config({}, known("BertForQuestionAnswering"), 2) == {}
    assert label_config({}, known("BertForTokenClassification"), 2)["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


@pytest.mark.parametrize(("config", "of_tokenizer", "entries", "said"), [
    ({}, None, {}, "nothing names a padding token"),
    ({"pad_token_id": None}, 7, {"pad_token_id": 7}, None),
    ({"pad_token_id": 7}, None, {}, None),
    ({"pad_token_id": 7}, 7, {}, None),
    ({"pad_token_id": 0}, 7, {}, "config.json says pad_token_id 0, the tokenizer 7"),
])  # fmt: skip
def test_the_padding_token(config: dict[str, Any], of_tokenizer: int | None, entries: object, said: str | None) -> None:
    found, notes = pad_config(config, known("LlamaForSequenceClassification"), SCORE, lambda: of_tokenizer)
    assert found == entries
    assert [text.startswith(said or "-") for text in notes] == ([True] if said else [])


@pytest.mark.parametrize("class_name", ["LlamaForTokenClassification", "BertForSequenceClassification"])
def test_classes_that_do_not_look_for_the_last_token(class_name: str) -> None:
    """The tokenizer isn't even read for them."""
    head = SCORE if class_name.startswith("Llama") else Head({"classifier.weight": SCORE.tensors["score.weight"]}, 3)

    def unread() -> int:
        raise AssertionError

    assert pad_config({}, known(class_name), head, unread) == ({}, ())
