"""The head that a classifier's adapter holds whole: what its file tells of it.

PEFT's classes for a task train the model's head beside the factors and save all of it, under the names that it has in
the model: `score.weight`, `classifier.dense.weight`, `qa_outputs.bias`. The base that the adapter names often has no
such head.

Source: PeftModelForSequenceClassification and its siblings in peft/peft_model.py, of PEFT 0.21.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..bases.modules import is_embedding_by_name
from ..formats.peft.adapter import PeftAdapter
from ..formats.tensors import TensorInfo

#: What the classes end in whose head gives a score for each label.
LABELLED = (
    "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForImageClassification",
    "ForAudioClassification",
)  # fmt: skip

#: What the last layer of a head is called, the one with a row for each label, where the head has several.
_LAST = ("score", "classifier", "qa_outputs", "out_proj")


@dataclass(frozen=True, slots=True)
class Head:
    """A head that an adapter holds whole.

    Attributes
    ----------
    tensors : Mapping[str, TensorInfo]
        By the parameters' names in the model.
    labels : int, optional
        How many it tells apart; None where its layers don't say which one has a row for each label.
    """

    tensors: Mapping[str, TensorInfo]
    labels: int | None

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that make it up, by their names in the model."""
        return tuple(dict.fromkeys(parameter.rpartition(".")[0] for parameter in self.tensors))


def has_labels(header: PeftAdapter) -> bool:
    """Whether the adapted model gives scores for labels, by the task or the class that its configuration names."""
    return bool(header.config.heads) or (header.config.base_class or "").endswith(LABELLED)


def head_of(header: PeftAdapter) -> Head | None:
    """The head in an adapter of a model with labels; None where it is another's, or holds none.

    It is what is saved whole beside the body, the part of the model in which the adapted modules are.
    """
    if not has_labels(header):
        return None
    body = {module.partition(".")[0] for module in header.modules}
    tensors = {
        parameter: replacement.tensor
        for parameter, replacement in sorted(header.replaced.items())
        if not replacement.in_place
        and parameter.partition(".")[0] not in body
        and not is_embedding_by_name(parameter.rpartition(".")[0])
    }
    return Head(tensors, _labels(tensors)) if tensors else None


def _labels(tensors: Mapping[str, TensorInfo]) -> int | None:
    layers = {name.removesuffix(".weight"): info for name, info in tensors.items() if len(info.shape) == 2}
    last = [info for name, info in layers.items() if name.rpartition(".")[2] in _LAST] or list(layers.values())
    return last[0].shape[0] if len(last) == 1 else None
