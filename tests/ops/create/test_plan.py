"""A new adapter before any number of it is known: its settings, its targets, its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import make_default_targets
import pytest
import torch
from fixture_data import ROOT, fixture
from safetensors.torch import save_file

from tinylora_tools.bases.base import Base
from tinylora_tools.bases.modules import model_modules, open_model
from tinylora_tools.bases.selection import default_targets
from tinylora_tools.errors import TinyLoraError
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.formats.peft.config import TinyLoraConfig, parse_targets
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.create.plan import Plan, missing_head, plan_adapter


def test_default_targets_are_the_installed_peft_s() -> None:
    data = json.loads((Path(make_default_targets.OUTPUT)).read_text())
    assert data["targets"] == make_default_targets.default_targets()["targets"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("q_proj", ("q_proj",)),
        ("q_proj, v_proj", ("q_proj", "v_proj")),
        ("All-Linear", "all-linear"),
        (r".*\.[qv]_proj", r".*\.[qv]_proj"),
        ("a{1,2}", "a{1,2}"),
        ("model.layers.0.mlp.up_proj", ("model.layers.0.mlp.up_proj",)),
    ],
)
def test_targets_are_names_or_an_expression(text: str, meant: object) -> None:
    assert parse_targets(text) == meant


def test_expressions_that_are_none() -> None:
    for given in ({"modules_to_save": ("(",)}, {"layers_pattern": ("[",)}):
        with pytest.raises(TinyLoraError, match="which is no expression"):
            TinyLoraConfig(target_modules=("q_proj",), **given).check()
    with pytest.raises(TinyLoraError, match="init_v_bound is -1"):
        TinyLoraConfig(init_weights="uniform", init_v_bound=-1.0).check()


def test_default_targets_need_a_known_model() -> None:
    base = read_checkpoint(fixture("peft021-layers").base)
    with pytest.raises(TinyLoraError, match="no default targets"):
        default_targets(model_modules(base, None), base.path)


def planned(base: Path, **settings: Any) -> Plan:
    at, config = Base(base), TinyLoraConfig(**settings)
    return plan_adapter(at, open_model(at, task_type=config.task_type), config)


@pytest.mark.parametrize("name", ["llama-fp32", "t5-fp16", "qwen2-tied-bf16"])
@pytest.mark.parametrize("projection", [True, False])
def test_the_file_is_as_long_and_in_the_order_that_safetensors_writes(
    name: str, projection: bool, tmp_path: Path
) -> None:
    plan = planned(ROOT / "bases" / name, target_modules="all-linear", r=3, u=5, weight_tying=0.5)
    kept = plan.kept(projection=projection)
    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    save_file({t.key: torch.zeros(t.shape, dtype=dtypes[t.dtype]) for t in kept}, tmp_path / "f", {"format": "pt"})
    assert plan.file_bytes(projection=projection) == (tmp_path / "f").stat().st_size
    assert list(read_header(tmp_path / "f").tensors) == [tensor.key for tensor in kept]
    assert any(tensor.part == "P" for tensor in kept) == projection


def test_what_to_know_of_the_settings() -> None:
    base = ROOT / "bases" / "gpt2-fp32"
    plan = planned(
        base, target_modules=("c_attn",), modules_to_save=("nothing",), save_projection=False, init_weights=False,
        fan_in_fan_out=False, r=40,
    )  # fmt: skip
    assert [text for text in plan.warnings if "r=40" not in text] == [
        "modules_to_save: no module is called nothing",
        "P won't be in the file: PEFT draws it from projection_seed, with values that differ between machines",
        "init_weights=false leaves v uninitialised in PEFT; zeros are written here",
        "fan_in_fan_out is set to true, by the type of the targeted layers",
    ]
    assert {m.rank(40) for m in plan.selection.modules} == {32}
    assert plan.config.fan_in_fan_out
    assert planned(base, target_modules=("c_attn",)).warnings == ()


def test_the_head_that_a_task_trains_is_asked_for() -> None:
    """BERT's classifier is there; a language model has none."""
    for name, targets, said in (
        ("bert-fp32", "query", None),
        ("llama-fp32", "q_proj",
         "the base has no classifier or score, the head that a SEQ_CLS adapter trains and holds"),
    ):  # fmt: skip
        config = TinyLoraConfig(target_modules=(targets,), task_type="SEQ_CLS")
        assert missing_head(open_model(Base(ROOT / "bases" / name), task_type="SEQ_CLS"), config) == said
