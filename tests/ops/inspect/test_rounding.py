"""What inspect says that a merge would lose is what merges report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edited_files import edit, edited_copy
from fixture_data import fixture
from foreign_projects import make_anrgusc, make_curiouscaliboi

from tinylora_tools import inspect, merge
from tinylora_tools.ops.inspect.adapter import AdapterReport
from tinylora_tools.ops.inspect.third_party import ThirdPartyReport

CASE = fixture("peft021-13-numbers")


def scaled(directory: Path, factor: float) -> Path:
    adapter = edited_copy(CASE.name, directory)

    def change(tensors: dict[str, Any]) -> None:
        for name in tensors:
            if "tinylora_v" in name:
                tensors[name] = tensors[name] * tensors[name].dtype.type(factor)

    edit(adapter / "adapter_model.safetensors", change)
    return adapter


@pytest.mark.parametrize("factor", [1.0, 0.05, 0.003])
def test_it_is_about_what_the_merge_reports(factor: float, tmp_path: Path) -> None:
    """Of 84 modules eight are looked at."""
    adapter = scaled(tmp_path / "a", factor)
    found = inspect(adapter, CASE.base)
    assert isinstance(found, AdapterReport)
    assert found.rounding is not None
    assert (found.rounding.dtype, found.rounding.modules) == ("bfloat16", 8)
    report = merge(adapter, tmp_path / "merged", CASE.base)
    assert report.delta_error is not None
    assert found.rounding.share == pytest.approx(report.delta_error, rel=0.4)


@pytest.mark.parametrize("name", ["peft020-gpt2", "peft021-layers"])
def test_few_modules_are_all_looked_at(name: str, tmp_path: Path) -> None:
    case = fixture(name)
    found = inspect(case.adapter, case.base)
    assert isinstance(found, AdapterReport)
    assert found.rounding is not None
    report = merge(case.adapter, tmp_path / "merged", case.base, dtype="bfloat16")
    if len(report.modules) == found.rounding.modules:
        assert report.delta_error is not None
        assert found.rounding.share <= report.delta_error * 1.1


def test_without_a_base_or_an_update_nothing_is_said(tmp_path: Path) -> None:
    for report in (inspect(CASE.adapter), inspect(scaled(tmp_path / "a", 0.0), CASE.base)):
        assert isinstance(report, AdapterReport)
        assert report.rounding is None


def test_another_project_s_adapter(tmp_path: Path) -> None:
    make_curiouscaliboi(CASE.base, tmp_path / "foreign")
    alone, found = inspect(tmp_path / "foreign"), inspect(tmp_path / "foreign", CASE.base)
    assert isinstance(alone, ThirdPartyReport)
    assert isinstance(found, ThirdPartyReport)
    assert alone.rounding is None
    assert found.rounding is not None
    assert 0 < found.rounding.share < 1
    assert found.rounding.modules == 8


def test_of_one_that_has_to_be_told_more_nothing_is_said(tmp_path: Path) -> None:
    make_anrgusc(CASE.base, tmp_path / "foreign")
    found = inspect(tmp_path / "foreign", CASE.base)
    assert isinstance(found, ThirdPartyReport)
    assert (found.rounding, found.unknown is not None) == (None, True)
