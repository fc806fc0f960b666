"""Counts against the adapters that PEFT wrote, and budgets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from fixture_data import FIXTURES, ROOT, Fixture, fixture, tensors

from tinylora_tools.core.tying import group_count
from tinylora_tools.errors import UnsupportedError
from tinylora_tools.formats.peft.config import TinyLoraConfig
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.create.count import CountReport, count, within_budget

#: Added to a model that had an adapter already: PEFT 0.19 numbered its groups by that one's modules.
NUMBERED_BY_ANOTHER = {"peft019-two"}


def counted(case: Fixture) -> tuple[CountReport, dict[str, Any]]:
    config = json.loads((case.adapter / "adapter_config.json").read_text())
    release = "4" if case.name == "peft019-experts" else None
    dtype = "auto" if case.name == "peft021-no-autocast" else "float32"
    settings = TinyLoraConfig.from_json(config, case.adapter)
    return count(case.base, settings, release=release, adapter_dtype=dtype), config


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_count_agrees_with_peft(case: Fixture) -> None:
    """Modules in order, groups, v and the file's tensors of every fixture."""
    report, config = counted(case)
    assert [m.name for m in report.modules] == [m["name"] for m in case.modules]
    assert [m.kind for m in report.modules] == [m["kind"] for m in case.modules]
    if case.name in NUMBERED_BY_ANOTHER:
        return
    assert [m.group for m in report.modules] == [m["group"] for m in case.modules]
    path = next(path for path in case.adapter.glob("adapter_model.*"))
    if path.suffix != ".safetensors":
        return
    file = read_header(path)
    vectors = [info for name, info in file.tensors.items() if ".tinylora_v." in name]
    assert report.trainable_parameters == sum(info.parameters for info in vectors)
    assert report.groups[-1].group + 1 == len(report.groups) == len(vectors)
    unsaved_biases = case.name.startswith(("peft019", "peft020")) and config["bias"] != "none"
    if not unsaved_biases:
        assert report.stored_parameters == sum(info.parameters for info in file.tensors.values())
        assert report.stored_bytes == file.size


@pytest.mark.parametrize("modules", [1, 2, 7, 84, 196])
@pytest.mark.parametrize("budget", [1, 13, 100, 5000])
def test_budgets_are_kept_and_used(modules: int, budget: int) -> None:
    found = within_budget(modules, budget)
    assert found
    for setting in found:
        assert setting.groups == group_count(modules, setting.weight_tying)
        assert setting.trainable_parameters == setting.u * setting.groups <= budget
        assert (setting.u + 1) * setting.groups > budget
    assert found == sorted(found, key=lambda s: -s.trainable_parameters)
    assert any(s.groups == 1 and s.u == budget for s in found)


def test_settings_of_a_budget_train_what_they_say() -> None:
    base = fixture("peft021-13-numbers").base
    wanted = TinyLoraConfig(target_modules=("q_proj", "v_proj"))
    settings = count(base, wanted, budget=13).settings
    assert {setting.groups for setting in settings} == set(range(1, 14))
    for setting in settings:
        found = count(base, replace(wanted, u=setting.u, weight_tying=setting.weight_tying))
        assert (found.trainable_parameters, len(found.groups)) == (setting.trainable_parameters, setting.groups)
        assert sorted(name for group in found.groups for name in group.modules) == sorted(m.name for m in found.modules)


def test_what_is_trained_beside_v_stands_apart() -> None:
    base = ROOT / "bases" / "bert-fp32"
    config = TinyLoraConfig(target_modules=("query",), bias="all", modules_to_save=("classifier",), u=2)
    report = count(base, config)
    weights = tensors(base)
    assert report.modules_to_save_parameters == sum(v.size for n, v in weights.items() if n.startswith("classifier."))
    biases = [v.size for n, v in weights.items() if n.endswith(".bias") and not n.startswith("classifier.")]
    assert report.bias_parameters == sum(biases)
    layers = len(report.modules)
    assert report.trainable_parameters == 2 * layers
    assert report.trainable_bytes_by_dtype == {"float32": 8 * layers, "bfloat16": 4 * layers, "float16": 4 * layers}
    assert report.stored_bytes_with_projection == report.stored_bytes > report.stored_bytes_without_projection


@pytest.mark.parametrize(
    ("targets", "first"), [("all-linear", "k_proj"), (("q_proj", "o_proj"), "q_proj"), (".*_proj", "k_proj")]
)
def test_weights_that_a_checkpoint_fuses_are_not_left_out(targets: Any, first: str, tmp_path: Path) -> None:
    """NomicBERT's files hold q, k and v in one tensor: PEFT adapts all three, in the model that is loaded."""
    config = transformers.NomicBertConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=50
    )
    transformers.NomicBertModel(config).save_pretrained(tmp_path)
    said = rf"layers\.0\.self_attn\.{first}: its weights are fused with others"
    with pytest.raises(UnsupportedError, match=said) as caught:
        count(tmp_path, TinyLoraConfig(r=2, u=4, target_modules=targets))
    assert "Leave it out of target_modules" in (caught.value.hint or "")
    assert len(count(tmp_path, TinyLoraConfig(r=2, u=4, target_modules=("o_proj",))).modules) == 2
