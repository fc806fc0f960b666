"""What config.json says of a classifier: its labels, and the token that its texts are filled up with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...adapters.head import Head
from ...bases.architectures.architecture import Architecture


def label_config(config: Mapping[str, Any], target: Architecture, labels: int) -> dict[str, Any]:
    """The entries for so many labels: transformers counts them by `id2label`, two where there is none. Names stay where
    as many are named; else they are transformers' LABEL_0 and so on, since no adapter holds any."""
    named = config.get("id2label")
    known = len(named) if isinstance(named, dict) else config.get("num_labels", 2)
    entries: dict[str, Any] = {}
    if known != labels or not (isinstance(named, dict) or target.class_name.endswith("ForQuestionAnswering")):
        entries["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
        entries["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
    if config.get("num_labels", labels) != labels:
        entries["num_labels"] = labels  # which transformers compares with the map
    if labels == 1 and config.get("problem_type") == "single_label_classification":
        entries["problem_type"] = None  # transformers 5 refuses it for one label, and takes one for a regression
    return entries


def pad_config(
    config: Mapping[str, Any], target: Architecture, head: Head, of_tokenizer: Callable[[], int | None]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The entry for the token that texts are filled up with, and what to know of it.

    Decoders' classifiers score a text at its last token that isn't `pad_token_id`, and take one text at a time where
    there is none. Trainings set it in the model's configuration, which no adapter holds; the tokenizer names it.
    """
    if "score" not in head.modules or not target.class_name.endswith("ForSequenceClassification"):
        return {}, ()
    known, pad_token_id = config.get("pad_token_id"), of_tokenizer()
    if known is None and pad_token_id is None:
        note = "nothing names a padding token: the model takes one text at a time until config.json has a pad_token_id"
        return {}, (note,)
    if known is None:
        return {"pad_token_id": pad_token_id}, ()
    if pad_token_id not in (None, known):
        note = (
            f"config.json says pad_token_id {known}, the tokenizer {pad_token_id}: the model scores a text at its last "
            f"token that isn't {known}"
        )
        return {}, (note,)
    return {}, ()
