"""Two adapters, two checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edited_files import edit
from fixture_data import ROOT, fixture
from safetensors.numpy import save_file

from tinylora_tools import diff, merge
from tinylora_tools.errors import FormatError, UnsupportedError

Copied = Callable[[str], tuple[Path, Path]]


def test_an_adapter_and_its_copy(copied: Copied) -> None:
    adapter, _ = copied("peft020-tiny")
    report = diff(fixture("peft020-tiny").adapter, adapter)
    assert (report.equal, report.compared, report.identical) == (True, 56, 56)
    assert (report.differences, report.only_in_first, report.settings) == ([], [], {})


def test_one_number_by_one_unit(copied: Copied) -> None:
    adapter, _ = copied("peft020-tiny")
    name = "base_model.model.model.layers.1.mlp.up_proj.tinylora_A"

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name].reshape(-1).view("u4")[3] += 1

    edit(adapter / "adapter_model.safetensors", change)
    report = diff(fixture("peft020-tiny").adapter, adapter)
    (one,) = report.differences
    assert (report.equal, one.name, one.max_ulp) == (False, name, 1)
    assert one.relative is not None
    assert 0 < one.relative < 1e-6
    assert diff(fixture("peft020-tiny").adapter, adapter, tolerance=1e-6).equal
    assert not diff(fixture("peft020-tiny").adapter, adapter, tolerance=one.relative / 2).equal


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_merge_beside_its_base_differs_by_the_adapters_rank(tmp_path: Path, dtype: str) -> None:
    case = fixture("peft021-13-numbers")
    merge(case.adapter, tmp_path / "merged", base=case.base, dtype=dtype)
    report = diff(tmp_path / "merged", case.base)
    changed = {one.name: one.rank for one in report.differences if one.max_abs}
    assert set(changed.values()) == {2}
    assert len(changed) == 84
    assert report.identical == (63 if dtype == "auto" else 0)
    assert report.settings == ({} if dtype == "auto" else {"dtype": ["float32", "bfloat16"]})


def test_shards_and_one_file_hold_the_same(tmp_path: Path) -> None:
    """Names count, not files."""
    base = ROOT / "bases" / "llama-sharded-bf16"
    from safetensors.numpy import load_file

    tensors = {k: v for part in base.glob("*.safetensors") for k, v in load_file(part).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    assert diff(base, tmp_path / "model.safetensors").equal
    tensors["extra"] = tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    report = diff(base, tmp_path)
    assert (report.equal, report.only_in_first, report.only_in_second) == (False, ["model.norm.weight"], ["extra"])


def test_pickled_and_safetensors(tmp_path: Path) -> None:
    case = fixture("peft021-pickled")
    import tinylora_tools as tl

    tl.to_peft(case.adapter, tmp_path / "anew")
    assert diff(case.adapter, tmp_path / "anew", tolerance=1e-7).equal


def test_settings_count_but_not_their_origin(copied: Copied) -> None:
    """Two adapters without P that differ in their seed alone compute different things."""
    adapter, _ = copied("peft020-seed-only")
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"peft_version": "0.21.2", "base_model_name_or_path": "elsewhere"}))
    assert diff(fixture("peft020-seed-only").adapter, adapter).equal
    path.write_text(json.dumps(config | {"projection_seed": 7}))
    report = diff(fixture("peft020-seed-only").adapter, adapter)
    assert (report.equal, report.settings) == (False, {"projection_seed": [config["projection_seed"], 7]})


def test_shapes_and_dtypes(tmp_path: Path) -> None:
    a = {
        "x": np.zeros((2, 3), np.float32),
        "n": np.arange(6),
        "s": np.array(1.0),
        "f": np.ones(3, np.float32),
    }
    b = {
        "x": np.zeros((3, 2), np.float32),
        "n": np.arange(6) + 1,
        "s": np.array(2.0),
        "f": np.ones(3, np.float16),
    }
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    found = {one.name: one for one in diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors").differences}
    assert (found["x"].shapes, found["x"].max_abs) == ([[2, 3], [3, 2]], None)
    assert (found["n"].max_abs, found["n"].max_ulp, found["n"].rank) == (1.0, None, None)
    assert (found["s"].max_abs, found["s"].relative) == (1.0, 1.0)
    assert (found["f"].dtypes, found["f"].max_abs) == (["F32", "F16"], 0.0)
    loose = {
        one.name for one in diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors", tolerance=1e-3).differences
    }
    assert loose == {"x", "n", "s"}


def test_blocks_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = fixture("peft021-13-numbers")
    merge(case.adapter, tmp_path / "merged", base=case.base)
    whole = diff(tmp_path / "merged", case.base)
    monkeypatch.setattr("tinylora_tools.ops.diff._BLOCK", 50)
    monkeypatch.setattr("tinylora_tools.formats.safetensors_file.PIECE", 66)
    for one, other in zip(whole.differences, diff(tmp_path / "merged", case.base).differences, strict=True):
        assert (one.name, one.max_abs, one.max_ulp, one.rank) == (other.name, other.max_abs, other.max_ulp, other.rank)
        assert one.relative == pytest.approx(other.relative)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    with pytest.raises(UnsupportedError, match="expected 0 or more"):
        diff(case.adapter, case.adapter, tolerance=float("nan"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="neither an adapter nor a checkpoint"):
        diff(case.adapter, tmp_path / "empty")
    shutil.copytree(case.adapter, tmp_path / "cut")
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(FormatError):
        diff(case.adapter, tmp_path / "cut")
