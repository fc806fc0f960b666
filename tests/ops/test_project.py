"""P from a seed, into a file and into an adapter that left it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import recipe
import torch
from edited_files import edited_copy
from fixture_data import fixture
from safetensors.torch import load_file as load_torch

from tinylora_tools.core.compare import digest
from tinylora_tools.errors import UndeterminedError
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.project import draw_projection, project, project_seeds
from tinylora_tools.ops.verify.seed import verify_seed


def test_project_seeds(tmp_path: Path, tinylora: Any) -> None:
    report = project_seeds(42, 13, 2, 5, dtype="bfloat16", output=tmp_path / "P.safetensors")
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


def test_each_place_has_its_own_seed() -> None:
    P = draw_projection(-3, 4, 2, 5)
    assert P.shape == (5, 4, 2, 2)
    for place in range(5):
        assert draw_projection(-3 + place, 4, 2)[0].tobytes() == P[place].tobytes()
    scalar = draw_projection(-3, 4, 2, 5, stream="torch-cpu-scalar")
    assert 0 < np.abs(scalar - P).max() < 1e-5


def test_all_else_comes_along_and_what_is_there_stays(tmp_path: Path) -> None:
    """The directory's other files, and the P of an adapter that has them."""
    case = fixture("peft021-layers")
    adapter = edited_copy(case.name, tmp_path / "a")
    (adapter / "README.md").write_text("mine")
    report = project(adapter, tmp_path / "b", base=case.base)
    assert report.tensors == []
    one, two = (load_torch(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (tmp_path / "b" / "README.md").read_text() == "mine"
    with pytest.raises(UndeterminedError):
        project(fixture("peft019-seed-only").adapter, tmp_path / "c", base=fixture("peft019-seed-only").base)
    assert not (tmp_path / "c").exists()
