"""The configuration against PEFT's own: its defaults, what it writes, what it refuses, and what it targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists

from tinylora_tools.errors import FormatError, UnsupportedError
from tinylora_tools.formats.peft.config import TASK_TYPES, TinyLoraConfig, parse_targets, read_config

WHERE = Path("adapter_config.json")


def parsed(**fields: Any) -> TinyLoraConfig:
    return TinyLoraConfig.from_json({"peft_type": "TINYLORA", **fields}, WHERE)


def written_by_peft(directory: Path, **fields: Any) -> dict[str, Any]:
    """adapter_config.json of a trained adapter, the set of targets sorted."""
    peft.TinyLoraConfig(**fields, inference_mode=True).save_pretrained(directory)
    found: dict[str, Any] = json.loads((directory / "adapter_config.json").read_text())
    if isinstance(found["target_modules"], list):
        found["target_modules"].sort()
    return found


SETTINGS: list[dict[str, Any]] = [
    {},
    {"r": 3, "u": 13, "weight_tying": 0.25, "projection_seed": 7, "target_modules": ["v_proj", "q_proj"]},
    {"target_modules": "all-linear", "bias": "all", "init_weights": "uniform", "init_v_bound": 0.5},
    {"target_modules": r".*\.[qv]_proj", "modules_to_save": ["score"], "init_weights": False},
    {"layers_to_transform": [1, 3], "layers_pattern": ["layers", "h"], "target_modules": ["q"], "fan_in_fan_out": True},
    {"task_type": "CAUSAL_LM", "base_model_name_or_path": "some/base", "revision": "abc", "tinylora_dropout": 0.1},
    {"auto_mapping": {"base_model_class": "BertModel", "parent_library": "transformers"}},
]


@pytest.mark.parametrize("given_", SETTINGS, ids=str)
def test_it_writes_what_peft_writes_and_reads_it(tmp_path: Path, given_: dict[str, Any]) -> None:
    written = written_by_peft(tmp_path, **given_)
    assert TinyLoraConfig(**given_).to_json() == written
    found = read_config(tmp_path / "adapter_config.json")
    assert found.to_json() == written
    assert found.raw.keys() == written.keys()
    assert found.peft_version == peft.__version__


def test_what_is_left_out_or_null_has_peft_s_default() -> None:
    kept = ("r", "u", "weight_tying", "projection_seed", "save_projection", "init_weights", "init_v_bound")
    nulls = dict.fromkeys(peft.TinyLoraConfig().to_dict().keys() - {*kept, "tinylora_dropout", "peft_type"})
    assert parsed(**nulls) == parsed() == TinyLoraConfig()
    default = peft.TinyLoraConfig()
    for name in (*kept, "tinylora_dropout"):
        assert getattr(TinyLoraConfig(), name) == getattr(default, name)


def test_lists_of_one_may_be_given_as_one() -> None:
    found = TinyLoraConfig(layers_to_transform=3, layers_pattern="h", target_modules=["a"])  # type: ignore[arg-type]
    assert (found.layers_to_transform, found.layers_pattern, found.target_modules) == ((3,), ("h",), ("a",))
    assert parsed(layers_to_transform=3, layers_pattern="h", target_modules=["a"]) == found


@pytest.mark.parametrize(
    "fields",
    [{"r": 0}, {"u": 0}, {"r": -1}, {"weight_tying": 1.5}, {"weight_tying": -0.1}, {"layers_pattern": ["h"]}],
    ids=str,
)
def test_what_peft_refuses_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"should be|must also"):
        peft.TinyLoraConfig(**fields)
    with pytest.raises(FormatError):
        TinyLoraConfig(**fields).check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_tying": float("nan")}, "weight_tying is nan, expected a number from 0 to 1"),
        ({"tinylora_dropout": 1.1}, "tinylora_dropout is 1.1, expected a number from 0 to 1"),
        ({"bias": "some"}, "bias is 'some', expected one of none, all, tinylora_only"),
        ({"task_type": "POETRY"}, f"task_type is 'POETRY', expected one of {', '.join(TASK_TYPES)}"),
        ({"target_modules": "a("}, "target_modules names 'a(', which is no expression: missing ), "),
        ({"modules_to_save": ("*",)}, "modules_to_save names '*', which is no expression: nothing to repeat"),
        ({"layers_pattern": ("[",), "layers_to_transform": (1,)}, "layers_pattern names '[', which is no expression"),
        ({"init_v_bound": -1.0, "init_weights": "uniform"}, "init_v_bound is -1.0, expected 0 or more"),
        ({"projection_seed": -(2**63) - 1}, "out of torch's range"),
        ({"projection_seed": 2**64 - 1}, "out of torch's range"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_could_not_be_trained_or_loaded_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        TinyLoraConfig(**fields).check(2)
    assert message in caught.value.what
    TinyLoraConfig(projection_seed=2**64 - 2).check(2)


def test_task_types_are_peft_s() -> None:
    assert set(TASK_TYPES) == {task.value for task in peft.TaskType}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("r", True, "an integer"),
        ("r", 2.0, "an integer"),
        ("r", None, "an integer"),
        ("r", 0, "a positive integer"),
        ("u", -3, "a positive integer"),
        ("weight_tying", "0", "a number from 0 to 1"),
        ("weight_tying", float("nan"), "a number from 0 to 1"),
        ("projection_seed", "42", "an integer"),
        ("save_projection", 1, "true or false"),
        ("target_modules", [1], "a string or a list of strings"),
        ("target_modules", {"a": 1}, "a string or a list of strings"),
        ("modules_to_save", "score", "a list of strings"),
        ("layers_to_transform", [True], "an integer or a list of integers"),
        ("layers_pattern", 3, "a string or a list of strings"),
        ("bias", ["none"], "a string"),
        ("init_weights", 1, "true, false or a string"),
        ("init_v_bound", "0.02", "a finite number"),
        ("init_v_bound", float("-inf"), "a finite number"),
        ("init_v_bound", float("nan"), "a finite number"),
        ("auto_mapping", "BertModel", "an object"),
        ("fan_in_fan_out", 0, "true or false"),
    ],
)
def test_fields_of_another_type(field: str, value: Any, expected: str) -> None:
    with pytest.raises(FormatError) as caught:
        parsed(**{field: value})
    assert str(caught.value) == f"adapter_config.json: {field} is {value!r}, expected {expected}"


@pytest.mark.parametrize("kind", ["LORA", None, 3])
def test_other_adapters_are_named(kind: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"peft_type is {kind!r}, expected 'TINYLORA'"):
        TinyLoraConfig.from_json({"peft_type": kind}, WHERE)


PARTS = ["model", "layers", "h", "0", "1", "12", "mlp", "experts", "q_proj", "v_proj", "proj", "score"]
PATH = st.lists(st.sampled_from(PARTS), min_size=1, max_size=7).map(".".join)
END = st.sampled_from([*PARTS, "mlp.q_proj", "layers.0.q_proj", "0.proj", "xq_proj", "q.proj"])
EXPRESSION = st.sampled_from([r".*\.[qv]_proj", "q_proj", r"model\..*proj", r".*layers\.(0|12)\..*", r".*", "proj$"])


@settings(max_examples=200, deadline=None)
@given(
    PATH,
    st.one_of(EXPRESSION, st.lists(END, min_size=1, max_size=3)),
    st.lists(END, max_size=2),
    st.lists(st.sampled_from([0, 1, 12, 5]), max_size=2),
    st.lists(st.sampled_from(["layers", "h", "experts", "l.*s"]), max_size=2),
)
def test_targets_are_peft_s(name: str, targets: Any, saved: list[str], layers: list[int], patterns: list[str]) -> None:
    fields: dict[str, Any] = {"target_modules": targets, "modules_to_save": saved or None}
    if layers:
        fields |= {"layers_to_transform": layers, "layers_pattern": patterns or None}
    expected = bool(check_target_module_exists(peft.TinyLoraConfig(**fields), name))
    assert TinyLoraConfig(**fields).matches(name) == expected
    assert parsed(**fields).matches(name) == expected


@pytest.mark.parametrize("task_type", [None, *TASK_TYPES])
def test_heads_of_a_task_are_saved_as_peft_saves_them(task_type: str | None) -> None:
    """What PEFT's class for the task adds to modules_to_save."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)
            self.score, self.classifier, self.qa_outputs = (torch.nn.Linear(2, 2) for _ in range(3))
            self.config: dict[str, Any] = {"model_type": "custom"}
            self.prepare_inputs_for_generation: Callable[..., None] = lambda: None
            self._prepare_encoder_decoder_kwargs_for_generation: Callable[..., None] = lambda: None

    config = peft.TinyLoraConfig(target_modules=["layer"], task_type=task_type, modules_to_save=["score"])
    model = peft.get_peft_model(Model(), config)
    theirs = set(model.peft_config["default"].modules_to_save)
    found = TinyLoraConfig(task_type=task_type, modules_to_save=("score",))
    assert set(found.saved) == theirs
    assert found.to_json()["modules_to_save"] == list(found.saved)
    assert not any(found.matches(f"model.{name}.dense") for name in theirs)


def test_the_class_that_was_adapted() -> None:
    assert parsed(auto_mapping={"base_model_class": "BertModel"}).base_class == "BertModel"
    assert parsed(auto_mapping={"base_model_class": 3}).base_class is None
    assert parsed(auto_mapping={}).base_class is None
    assert parsed().base_class is None


def test_targets_as_one_text_lose_repetitions_and_spaces() -> None:
    assert parse_targets(" q_proj ,, v_proj,q_proj ") == ("q_proj", "v_proj")
    with pytest.raises(FormatError) as caught:
        parse_targets("(q")
    assert caught.value.what.startswith("'(q' is no regular expression: ")
