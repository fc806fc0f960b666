"""What a packed file says of an adapter: P, v and what the metadata leave out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixture_data import fixture
from packed_files import edited_adapter, restored, values
from safetensors.torch import load_file, save_file

from tinylora_tools.errors import MismatchError
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.convert.packed_factors import MOST_ERROR


@pytest.mark.parametrize("own", [True, False], ids=["its own P", "the seed's P"])
@pytest.mark.parametrize("save_projection", [True, False], ids=["said", "denied"])
def test_p_comes_back_whatever_the_configuration_says(own: bool, save_projection: bool, tmp_path: Path) -> None:
    case = fixture("peft021-layers")

    def change(state: dict[str, Any]) -> None:
        for key in state:
            if own and key.endswith("_P"):
                state[key] = state[key] * 2

    adapter = edited_adapter(case, tmp_path / "a", change, save_projection=save_projection)
    assert pack(adapter, tmp_path / "p.safetensors", base=case.base, exact=True).identical
    tensors, _ = restored(tmp_path / "p.safetensors", case.base)
    before = values(adapter)
    assert {k: v.tobytes() for k, v in tensors.items()} == {k: v.tobytes() for k, v in before.items()}


def test_p_that_isn_t_there_isn_t_added(tmp_path: Path) -> None:
    case = fixture("peft021-layers")

    def change(state: dict[str, Any]) -> None:
        for key in [key for key in state if key.endswith("_P")]:
            del state[key]

    adapter = edited_adapter(case, tmp_path / "a", change)
    assert pack(adapter, tmp_path / "p.safetensors", base=case.base, exact=True).identical
    assert restored(tmp_path / "p.safetensors", case.base)[0].keys() == values(adapter).keys()


def test_rounding_of_v_is_measured(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    exactly = pack(case.adapter, tmp_path / "p.safetensors", base=case.base, exact=True)
    report = pack(case.adapter, tmp_path / "q.safetensors", base=case.base, exact=True, v_dtype="bfloat16")
    assert (exactly.identical, exactly.error) == (True, 0.0)
    assert not report.identical
    other = fixture("peft021-13-numbers")
    rounded = pack(other.adapter, tmp_path / "s.safetensors", base=other.base, v_dtype="bfloat16")
    assert rounded.error > MOST_ERROR
    assert rounded.corrections == 0  # which wouldn't mend v
    assert 1e-4 < report.error < 1e-2
    assert float(read_header(tmp_path / "q.safetensors").metadata["error"]) == pytest.approx(report.error, rel=0.1)
    tensors, _ = restored(tmp_path / "q.safetensors", case.base)
    v = values(case.adapter)["base_model.tinylora_v.0"]
    assert 0 < np.abs(tensors["base_model.tinylora_v.0"] - v).max() <= 2**-8 * np.abs(v).max()

    def change(state: dict[str, Any]) -> None:
        state["base_model.tinylora_v.0"] += 1e5

    large = edited_adapter(case, tmp_path / "a", change)
    with pytest.raises(MismatchError, match="v overflows float16"):
        pack(large, tmp_path / "r.safetensors", base=case.base, v_dtype="float16")


def test_a_base_that_moved_a_little_is_told_of(tmp_path: Path) -> None:
    case, base = fixture("peft020-tiny"), tmp_path / "base"
    shutil.copytree(case.base, base)
    state = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {k: v + 1e-3 * v.std() * torch.randn(v.shape, generator=generator) for k, v in state.items()}
    save_file(moved, base / "model.safetensors", metadata={"format": "pt"})
    report = pack(case.adapter, tmp_path / "p.safetensors", base=base)
    assert "a little off the base's weights" in report.warnings[0]
    restored(tmp_path / "p.safetensors", base)


def test_what_is_the_usual_is_left_out_of_the_metadata(tmp_path: Path) -> None:
    usual = {"format", "version", "config", "weights", "signs", "A", "B", "P", "dtypes", "error", "content"}
    more = {
        "peft021-13-numbers": set(),
        "peft019-shared": {"P_of"},
        "peft021-scalar": {"stream"},
        "peft020-second": {"P_of"},
    }
    for name, keys in more.items():
        case = fixture(name)
        pack(case.adapter, tmp_path / f"{name}.safetensors", base=case.base)
        metadata = read_header(tmp_path / f"{name}.safetensors").metadata
        assert metadata.keys() == usual | keys, name


def test_a_p_that_all_modules_share_is_stored_once(tmp_path: Path) -> None:
    case = fixture("peft019-shared")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    file = read_header(tmp_path / "p.safetensors")
    assert [name for name in file.tensors if name.startswith("P.")] == ["P.0"]
    assert json.loads(file.metadata["P_of"]) == [0] * len(case.modules)
    assert np.array_equal(file.read("P.0"), case.live[f"{case.modules[0]['name']}.P"])


def test_modules_and_groups_that_the_configuration_does_not_tell_are_named(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    names = [module["name"] for module in case.modules]
    adapter = edited_adapter(
        case, tmp_path / "a", lambda state: None, target_modules=["o_proj"], layers_to_transform=[2]
    )
    pack(adapter, tmp_path / "p.safetensors", base=case.base, module_order=names)
    metadata = read_header(tmp_path / "p.safetensors").metadata
    assert json.loads(metadata["modules"]) == names
    assert restored(tmp_path / "p.safetensors", case.base)[0].keys() == values(adapter).keys()
