"""Which architecture is named, and for which task."""

from __future__ import annotations

from tinylora_tools.bases.architectures.named import _TASK_CLASSES, for_task, from_class_name, from_config
from tinylora_tools.cli.init import command as init_command


def test_a_model_type_counts_before_a_class() -> None:
    found = from_config({"model_type": "qwen2", "architectures": ["LlamaForCausalLM"]})
    assert found is not None
    assert found.model_type == "qwen2"
    by_class = from_config({"model_type": "of my own", "architectures": ["LlamaForCausalLM"]})
    assert by_class is not None
    assert by_class.model_type == "llama"  # not one of the families that use its classes
    assert from_config({"architectures": "LlamaForCausalLM"}) is None
    assert from_config({}) is None


def test_tasks_have_classes() -> None:
    found = from_class_name("Qwen2ForCausalLM")
    assert found is not None
    named = {task: for_task(found, task) for task in ("CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM")}
    assert {task: one and one.class_name for task, one in named.items()} == {
        "CAUSAL_LM": "Qwen2ForCausalLM",
        "SEQ_CLS": "Qwen2ForSequenceClassification",
        "FEATURE_EXTRACTION": "Qwen2Model",
        "SEQ_2_SEQ_LM": None,
    }


def test_the_command_line_offers_every_task_type() -> None:
    offered = [option for option in init_command.params if option.name == "task_type"]
    assert [list(option.type.choices) for option in offered] == [[*_TASK_CLASSES, "FEATURE_EXTRACTION"]]  # type: ignore[attr-defined]


def test_code_that_a_base_brings_along_makes_it_doubtful() -> None:
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    for auto_map, doubtful in (
        (None, False),
        ({"AutoTokenizer": "x.Y"}, False),
        ({"AutoConfig": "x.C", "AutoModelForCausalLM": "x.Y"}, True),
    ):
        found = from_config({**config, "auto_map": auto_map})
        assert found is not None
        assert found.doubtful == doubtful
