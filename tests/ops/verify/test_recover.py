"""PEFT 0.19's lost seed, recovered."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from edited_files import edited_copy, without_projections
from fixture_data import fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.bases.base import open_base
from tinylora_tools.errors import MismatchError, UndeterminedError
from tinylora_tools.ops.verify.recover import recover_offset
from tinylora_tools.ops.verify.seed import verify_seed


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
    straddling = edited_copy(case.name, tmp_path / "dev", peft_version="0.19.2.dev0@UNKNOWN")  # it may be lost
    for adapter in (case.adapter, straddling):
        report = verify_seed(adapter, base=case.base, against=target)
        assert report.ok
        assert report.adapter is not None
        assert report.adapter.offset == 1737  # hash("default") % 10000 with PYTHONHASHSEED=0
    told = verify_seed(straddling, base=case.base)
    assert (told.ok, told.adapter.regime if told.adapter else "") == (False, "unknown")
    assert "seeding='index' or seeding='salted' tells" in told.checks[0].note
    if against == "merged":
        with pytest.raises(UndeterminedError, match="beside its base"):
            verify_seed(case.adapter, against=target)
        with pytest.raises(UndeterminedError, match="0 of 10000 offsets explain"):
            verify_seed(case.adapter, base=case.base, against=case.base)


def test_what_tells_nothing_of_the_seed_is_refused(tmp_path: Path) -> None:
    case = fixture("peft019-seed-only")
    with pytest.raises(MismatchError, match="it stores no P of these modules"):
        verify_seed(case.adapter, base=case.base, against=edited_copy("peft021-layers", tmp_path / "others"))
    without = edited_copy("peft021-scalar", tmp_path / "without", without_projections)
    with pytest.raises(MismatchError, match="it stores no P of these modules"):
        verify_seed(case.adapter, base=case.base, against=without)
    P = np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)
    keys = [f"base_model.model.{row['name']}.tinylora_P" for row in case.modules]
    random = edited_copy(case.name, tmp_path / "random", lambda tensors: tensors.update(dict.fromkeys(keys, P)))
    with pytest.raises(UndeterminedError, match="0 of 10000 offsets draw its P"):
        verify_seed(case.adapter, base=case.base, against=random)


def test_without_a_configuration_no_seed_is_known(tmp_path: Path) -> None:
    case = fixture("peft019-seed-only")
    shutil.copy(case.adapter / "adapter_model.safetensors", tmp_path / "adapter.safetensors")
    alone = load_adapter(tmp_path / "adapter.safetensors", case.base)
    with pytest.raises(UndeterminedError, match="the seed isn't known") as caught:
        recover_offset(alone, case.merged, open_base(case.base))
    assert caught.value.hint == "Put its adapter_config.json beside it."


@pytest.mark.parametrize("name", ["peft021-scalar", "peft020-second"])
def test_p_that_the_lost_seed_didn_t_draw_recover_nothing(name: str) -> None:
    """One P of an adapter may be drawn from the seed and some offset, by chance or by place: that is no recovery."""
    case = fixture("peft019-seed-only")
    with pytest.raises(MismatchError, match="aren't one for all modules of this adapter's u and r"):
        verify_seed(case.adapter, base=case.base, against=fixture(name).adapter)
