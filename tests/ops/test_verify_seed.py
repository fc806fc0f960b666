"""verify-seed on adapters that real PEFT releases wrote, at each CPU capability, and on tampered ones."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_data import FIXTURES, ROOT, Fixture, fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools.core.compare import difference, digest
from tinylora_tools.errors import FormatError, TinyLoraError, UndeterminedError
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.project import project, project_seeds
from tinylora_tools.ops.verify.seed import verify_seed

on_x86_linux = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="the named streams are those of x86-64 Linux"
)
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
    from tinylora_tools.adapters.source import load_adapter
    from tinylora_tools.ops.verify.adapter import verify_adapter

    loaded = load_adapter(tmp_path / "a", base=case.base)
    _, checks = verify_adapter(loaded, 1e-5)
    order = next(check for check in checks if check.name == "module order")
    assert not order.ok
    assert "the stored P say that module 2 is model.layers.1.self_attn.v_proj" in order.note


@pytest.mark.parametrize("name", ["peft021-13-numbers", "peft020-gpt2"])
def test_merged_bytes_are_compared(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tinylora_tools.ops.verify import seed as module

    case = fixture(name)
    found = [check for check in verify_seed(case.adapter, base=case.base).checks if check.name.startswith("merged")]
    assert [check.name for check in found][:2] == ["merged bytes, 1 thread", "merged bytes, 3 threads"]
    assert all(check.ok and check.identical for check in found)
    merge(case.adapter, tmp_path / "merged", case.base)
    files = sorted((tmp_path / "merged").glob("*.safetensors"))
    written = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert {check.digest for check in found} == {hashlib.sha256(written.encode()).hexdigest()}
    digests = iter("abc")
    monkeypatch.setattr(module, "merged_elsewhere", lambda *_, **__: next(digests))
    assert not verify_seed(case.adapter, base=case.base).ok


@pytest.mark.filterwarnings("ignore")
def test_small_p_are_ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """u = r = 1 in bfloat16: different seeds draw the same number. With an order all is known, without it isn't."""
    import recipe

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
    from tinylora_tools.core.streams.projection import draw

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


@pytest.mark.parametrize("against", ["merged", "adapter"])
def test_a_lost_seed_is_recovered(against: str, tmp_path: Path) -> None:
    case = fixture("peft019-seed-only")
    if against == "merged":
        target = tmp_path / "merged"
        shutil.copytree(case.merged, target)
        shutil.copy(case.base / "config.json", target)
    else:  # the P that PEFT's process had
        target = tmp_path / "adapter"
        shutil.copytree(case.adapter, target)
        tensors = dict(load_file(target / "adapter_model.safetensors"))
        for row in case.modules:
            tensors[f"base_model.model.{row['name']}.tinylora_P"] = case.live[f"{row['name']}.P"]
        save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    report = verify_seed(case.adapter, base=case.base, against=target)
    assert report.ok
    assert report.adapter is not None
    assert report.adapter.offset == 1737  # hash("default") % 10000 with PYTHONHASHSEED=0
    if against == "merged":
        with pytest.raises(UndeterminedError, match="beside its base"):
            verify_seed(case.adapter, against=target)
        with pytest.raises(UndeterminedError, match="0 of 10000 offsets explain"):
            verify_seed(case.adapter, base=case.base, against=case.base)


@on_x86_linux
def test_this_machine() -> None:
    report = verify_seed(device="cpu")
    assert report.ok, report
    names = {check.name for check in report.checks}
    assert {"numpy torch-cpu-avx2", "numpy torch-cpu-scalar", "torch", "torch default, 1 thread"} <= names
    assert {check.device for check in report.checks} == {"cpu"}
    skipped = verify_seed(device="cuda").skipped if not _has_cuda() else ["cuda"]
    assert skipped[0].startswith("cuda")


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_a_new_arithmetic_of_torch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinylora_tools.ops.verify import machine as verify_machine

    changed = verify_machine._DRAW.replace("P.numpy()", "torch.nextafter(P, P + 1).numpy()")
    monkeypatch.setattr(verify_machine, "_DRAW", changed)
    report = verify_seed(device="cpu")
    assert not report.ok
    check = next(check for check in report.checks if check.name == "torch")
    assert (check.ok, check.identical, check.stream, check.max_ulp) == (False, False, None, 1)
    assert "no known stream" in check.note


@on_x86_linux
def test_golden_files_between_machines(tmp_path: Path) -> None:
    """Recorded with AVX2, checked without: the difference is reported as what it is."""

    def run(*arguments: object, capability: str) -> Any:
        command = [sys.executable, "-m", "tinylora_tools", "verify-seed", "--device", "cpu", *map(str, arguments)]
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT.parent)

    golden = tmp_path / "golden.json"
    assert run("--record", golden, capability="avx2").returncode == 0
    assert run("--golden", golden, capability="avx2").returncode == 0
    other = run("--golden", golden, "--json", capability="default")
    assert other.returncode == 1
    report = json.loads(other.stdout)
    assert report["ok"] is False
    wrong = [check for check in report["checks"] if not check["ok"]]
    assert [check["name"] for check in wrong] == ["golden: torch"]
    assert "recorded torch-cpu-avx2, here torch-cpu-scalar" in wrong[0]["note"]
    content = json.loads(golden.read_text())
    golden.write_text(json.dumps({**content, "version": 2}))
    refused = run("--golden", golden, capability="avx2")
    assert (refused.returncode, "of version 2, expected" in refused.stderr) == (1, True)
    assert "Traceback" not in refused.stderr


def test_golden_files_of_adapters(tmp_path: Path) -> None:
    case, golden = fixture("peft021-scalar"), tmp_path / "golden.json"
    verify_seed(case.adapter, record_to=golden)
    assert verify_seed(case.adapter, golden=golden).ok
    assert not verify_seed(fixture("peft021-bias-all").adapter, golden=golden).ok
    with pytest.raises(TinyLoraError, match="exists already"):
        verify_seed(case.adapter, record_to=golden)
    golden.write_text("[]")
    with pytest.raises(FormatError):
        verify_seed(case.adapter, golden=golden)


def test_json_has_the_promised_keys(tinylora: Any) -> None:
    report = json.loads(tinylora("verify-seed", fixture("peft021-scalar").adapter, "--json").out)
    assert {"ok", "checks", "adapter"} <= report.keys()
    assert {"name", "device", "stream", "identical", "max_ulp", "max_abs"} <= report["checks"][0].keys()
    assert {"regime", "stream", "dtype", "seed", "offset", "modules", "matched", "mismatched"} <= report[
        "adapter"
    ].keys()


def test_distances() -> None:
    one = np.array([1.0, -0.0, 0.0, -1e-45], np.float32)
    assert difference(one, one.copy()) == (True, 0, 0.0)
    other = np.array([np.nextafter(np.float32(1), np.float32(2)), 0.0, 0.0, 1e-45], np.float32)
    found = difference(one, other)
    assert (found.identical, found.max_ulp) == (False, 2)
    assert found.max_abs == float(other[0]) - 1.0


def test_project_seeds(tmp_path: Path, tinylora: Any) -> None:
    import torch

    report = project_seeds(42, 13, 2, 5, dtype="bfloat16", output=tmp_path / "P.safetensors")
    from safetensors.torch import load_file as load_torch

    tensors = load_torch(tmp_path / "P.safetensors")
    assert sorted(tensors) == [f"P.{i}" for i in range(5)] == [row.name for row in report.tensors]
    for row in report.tensors:
        assert tensors[row.name].dtype == torch.bfloat16
        assert digest(tensors[row.name].view(torch.int16).numpy()) == row.sha256
    result = tinylora(
        "project", "--seed", "42", "-u", "13", "-r", "2", "--count", "5", "--dtype", "bfloat16", "--digest"
    )
    assert result.out.splitlines() == [f"{row.sha256}  {row.name}" for row in report.tensors]
    again = tinylora("project", "--seed", "42", "-u", "13", "-r", "2", "-o", tmp_path / "P.safetensors")
    assert (again.code, "exists already" in again.err) == (1, True)
    for arguments in (["-u", "0", "-r", "1"], ["-u", "1", "-r", "-1"], ["-u", "1000000", "-r", "100000"]):
        assert tinylora("project", "--seed", "1", *arguments, "--digest").code == 1
    assert tinylora("project", "--seed", "1.5", "-u", "1", "-r", "1", "--digest").code == 2
    assert tinylora("project", "--seed", str(2**64), "-u", "1", "-r", "1", "--digest").code == 1


@pytest.mark.parametrize("name", ["peft021-13-numbers", "peft020-seed-only", "peft021-t5-fp16"])
@pytest.mark.filterwarnings("ignore")
def test_projected_adapters_load_in_peft(name: str, tmp_path: Path) -> None:
    """P made explicit: PEFT loads it, and its live modules hold it; merges of the two are the same bytes."""
    import peft
    import recipe
    import torch

    case = fixture(name)
    report = project(case.adapter, tmp_path / "a", base=case.base)
    assert len(report.tensors) == len(case.modules)
    model = recipe.load_base(recipe.BASES[case.facts["base"]], case.base)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "a")
    rows, live = recipe.live_modules(loaded, "default")
    assert [row["name"] for row in rows] == [row["name"] for row in case.modules]
    for row in case.modules:
        for part in "ABPv":
            key = f"{row['name']}.{part}"
            assert torch.equal(live[key], torch.from_numpy(case.live[key])), key
    merge([case.adapter], tmp_path / "one", case.base)
    merge([tmp_path / "a"], tmp_path / "two", case.base)
    for path in (tmp_path / "one").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert verify_seed(tmp_path / "a", base=case.base).ok
