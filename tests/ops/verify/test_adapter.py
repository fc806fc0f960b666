"""verify-seed on adapters that real PEFT releases wrote, and on tampered ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import recipe
from edited_files import Tensors, edited_copy
from fixture_data import FIXTURES, ROOT, Fixture, fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.core.streams.projection import draw
from tinylora_tools.ops.verify.adapter import verify_adapter
from tinylora_tools.ops.verify.seed import verify_seed

KEY = "base_model.model.model.layers.1.self_attn.v_proj.tinylora_P"


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_every_release(case: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which stream drew it, from which seed; nothing is reported that isn't so."""
    monkeypatch.chdir(ROOT.parent)  # where the base that the configuration names is found
    report = verify_seed(case.adapter)
    verdict = report.adapter
    assert verdict is not None
    if case.name == "peft019-seed-only":
        assert not report.ok
        assert "the seed is lost" in report.checks[0].note
        return
    assert report.ok, report
    assert verdict.mismatched == []
    assert verdict.modules == len(case.modules)
    config = json.loads((case.adapter / "adapter_config.json").read_text())
    assert verdict.seed == config["projection_seed"]
    if not config["save_projection"]:
        assert verdict.stream is None
        assert verdict.delta_difference is not None
        return
    assert verdict.matched == verdict.modules
    base_dtype = case.facts["base"].rpartition("-")[2]
    assert verdict.dtype == {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[base_dtype]
    scalar = case.name.endswith("scalar")
    if base_dtype == "fp32" and case.name != "peft020-tiny":
        assert verdict.stream == ("torch-cpu-scalar" if scalar else "torch-cpu-avx2")
    if case.facts["peft"] == "0.19.1" and case.name != "peft019-two":
        assert verdict.offset is not None
        assert 0 <= verdict.offset < 10_000


@pytest.mark.parametrize("name", ["peft019-scalar", "peft020-scalar", "peft021-scalar"])
@pytest.mark.parametrize("with_base", [True, False])
def test_one_changed_value_is_found_and_named(name: str, with_base: bool, tmp_path: Path) -> None:
    case = fixture(name)
    shutil.copytree(case.adapter, tmp_path / "a")
    tensors = dict(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    tensors[KEY][5, 1, 0] = np.nextafter(tensors[KEY][5, 1, 0], np.float32(9))
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    report = verify_seed(tmp_path / "a", module_order=[row["name"] for row in case.modules] if with_base else None)
    assert not report.ok
    assert report.adapter is not None
    assert report.adapter.mismatched == ["model.layers.1.self_attn.v_proj"]
    assert report.adapter.matched == len(case.modules) - 1
    row = next(check for check in report.checks if check.name.startswith("P of "))
    assert (row.name, row.max_ulp) == ("P of model.layers.1.self_attn.v_proj", 1)


def test_an_order_that_isnt_the_architectures(tmp_path: Path) -> None:
    case = fixture("peft021-scalar")
    shutil.copytree(case.adapter, tmp_path / "a")
    tensors = dict(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    other = KEY.replace("v_proj", "q_proj")
    tensors[KEY], tensors[other] = tensors[other], tensors[KEY]
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors", metadata={"format": "pt"})
    report = verify_seed(tmp_path / "a", module_order=None, base=None)
    assert report.adapter is not None
    assert report.adapter.regime == "seed-plus-index"
    loaded = load_adapter(tmp_path / "a", base=case.base)
    _, checks = verify_adapter(loaded, 1e-5)
    order = next(check for check in checks if check.name == "module order")
    assert not order.ok
    assert "the stored P say that module 2 is model.layers.1.self_attn.v_proj" in order.note


def test_an_order_that_is_given_is_compared_too(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    names = [row["name"] for row in case.modules]
    report = verify_seed(case.adapter, base=case.base, module_order=["model", *names])
    order = next(check for check in report.checks if check.name == "module order")
    assert (report.ok, order.ok, order.note) == (True, True, "the order of module_order")
    P = [f"base_model.model.{name}.tinylora_P" for name in names[:2]]

    def swap(tensors: Tensors) -> None:
        tensors[P[0]], tensors[P[1]] = tensors[P[1]], tensors[P[0]]

    other = verify_seed(edited_copy(case.name, tmp_path / "a", swap), module_order=names)
    order = next(check for check in other.checks if check.name == "module order")
    assert (other.ok, order.ok) == (False, False)
    assert order.note == "the seeds of the stored P tell another order than module_order, which is followed"


@pytest.mark.filterwarnings("ignore")
def test_small_p_are_ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """u = r = 1 in bfloat16: different seeds draw the same number. With an order all is known, without it isn't."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # else PEFT asks the Hub for the base
    base = ROOT / "bases" / "qwen2-bf16"
    case = recipe.Case(
        "", "", {"r": 1, "u": 1, "target_modules": "all-linear", "projection_seed": 1}, "", task="CAUSAL_LM"
    )
    recipe.make_adapter(case, recipe.BASES["qwen2-bf16"], base, tmp_path / "made", "nowhere")
    monkeypatch.chdir(tmp_path)
    order = [row["name"] for row in Fixture(tmp_path / "made").modules]
    for module_order in (order, None):
        report = verify_seed(tmp_path / "made" / "adapter", module_order=module_order)
        assert report.ok
        assert report.adapter is not None
        assert (report.adapter.regime, report.adapter.matched) == ("seed-plus-index", 84)
        assert "ambiguous: several seeds draw the P of" in report.checks[-1].note


def test_a_seed_with_another_rounding(tmp_path: Path) -> None:
    """P as its seed draws it, but not rounded to bfloat16 as the factors are: PEFT doesn't write that."""
    case = fixture("peft021-layers")
    shutil.copytree(case.adapter, tmp_path / "a")
    tensors = dict(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    for index, row in enumerate(case.modules):
        tensors[f"base_model.model.{row['name']}.tinylora_P"] = draw(42 + index, 3, 2)
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors", metadata={"format": "pt"})
    report = verify_seed(tmp_path / "a")
    assert report.adapter is not None
    assert (report.adapter.regime, report.adapter.dtype, report.adapter.matched) == ("seed-plus-index", "float32", 6)
    assert not report.ok
    wrong = next(check for check in report.checks if not check.ok)
    assert wrong.name == "rounding"
    assert "(bfloat16)" in wrong.note


def test_an_unknown_p(tmp_path: Path) -> None:
    case = fixture("peft021-scalar")
    shutil.copytree(case.adapter, tmp_path / "a")
    tensors = dict(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    rng = np.random.default_rng(0)
    for name in tensors:
        if name.endswith("tinylora_P"):
            tensors[name] = rng.standard_normal(tensors[name].shape).astype(np.float32)
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors", metadata={"format": "pt"})
    report = verify_seed(tmp_path / "a")
    assert not report.ok
    assert report.adapter is not None
    assert (report.adapter.regime, report.adapter.stream, report.adapter.matched) == ("stored-projection", None, 0)


def test_what_depends_on_the_machine(tmp_path: Path) -> None:
    """A seed-only adapter on a float32 base: other bits, and updates that hardly differ."""
    case = fixture("peft021-scalar")
    shutil.copytree(case.adapter, tmp_path / "a")
    tensors = {k: v for k, v in load_file(case.adapter / "adapter_model.safetensors").items() if "tinylora_P" not in k}
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors", metadata={"format": "pt"})
    report = verify_seed(tmp_path / "a", base=case.base)
    assert report.ok
    assert report.adapter is not None
    assert report.adapter.machine_dependent == [row["name"] for row in case.modules]
    change = report.adapter.delta_difference
    assert change is not None
    assert 0 < change < 1e-5
    assert not verify_seed(tmp_path / "a", base=case.base, tolerance=change / 2).ok
