"""What a plan says of sizes and outcomes is what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_data import fixture, tensors

from tinylora_tools import load_adapter
from tinylora_tools.bases.base import open_base
from tinylora_tools.formats.safetensors_file import build_header
from tinylora_tools.ops.merge.plan import plan_merge
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.merge.words import OutputFile


@pytest.mark.parametrize("name", ["peft020-seed-only", "peft021-lm-head", "peft021-pickled"])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_sizes_are_the_written_files(name: str, dtype: str, tmp_path: Path) -> None:
    case = fixture(name)
    at = open_base(case.base)
    plan = plan_merge(at, [load_adapter(case.adapter, at)], [1.0], dtype=dtype)
    merge([case.adapter], tmp_path / "out", case.base, dtype=dtype)
    written = {path.name: path for path in (tmp_path / "out").glob("*.safetensors")}
    assert {file.name: file.size for file in plan.files} == {
        name: path.stat().st_size for name, path in written.items()
    }
    assert plan.size == sum(file.size for file in plan.files)
    for file in plan.files:
        assert written[file.name].read_bytes().startswith(file.header)


def test_a_shard_without_tensors_is_its_header() -> None:
    header, _ = build_header([], {"format": "pt"})
    assert OutputFile("model.safetensors", header, ()).size == len(header)


def test_there_is_an_outcome_for_every_tensor_in_the_order_of_the_files(tmp_path: Path) -> None:
    case = fixture("peft020-seed-only")
    at = open_base(case.base)
    plan = plan_merge(at, [load_adapter(case.adapter, at)], [1.0])
    names = [info.name for file in plan.files for info, _ in file.tensors]
    assert [outcome.source.tensor.name for outcome in plan.outcomes] == names
    assert set(names) == tensors(case.base).keys()
    changed = {outcome.source.tensor.name for outcome in plan.outcomes if outcome.updates}
    assert changed == {f"{module['name']}.weight" for module in case.modules}
    factors = {u.module: u.factors() for outcome in plan.outcomes for u in outcome.updates}
    for module, (A, B) in factors.items():
        assert A.tobytes() == case.live[f"{module}.A"].tobytes()
        assert B.tobytes() == case.live[f"{module}.B"].tobytes()
