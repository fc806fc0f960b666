"""Other projects' adapters, as they were made with the projects' own formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import foreign_projects as made
import numpy as np
import pytest
from fixture_data import ROOT

from tinylora_tools import inspect
from tinylora_tools.errors import FormatError
from tinylora_tools.ops.inspect.third_party import ThirdPartyReport

BASE = ROOT / "bases" / "qwen2-bf16"


@pytest.mark.parametrize(
    ("name", "make", "u", "groups"),
    [
        ("curiouscaliboi", made.make_curiouscaliboi, 3, 5),
        ("guokaku", made.make_guokaku, 3, None),
        ("chi-shan0707", made.make_chi_shan0707, 4, 1),
    ],
)
def test_what_its_files_tell(
    tmp_path: Path, name: str, make: Callable[[Path, Path], object], u: int, groups: int | None
) -> None:
    make(BASE, tmp_path / "made")
    report = inspect(tmp_path / "made")
    if not isinstance(report, ThirdPartyReport):  # inside a whole checkpoint it is described as one
        assert name == "guokaku"
        return
    assert (report.kind, report.dialect, report.u, report.rank, report.unknown) == ("third-party", name, u, 2, None)
    assert groups in (None, report.groups)
    assert report.trainable_parameters == u * (report.groups or 0)
    assert report.vectors is not None
    assert 0 < report.vectors.rms <= report.vectors.largest
    assert "makes it PEFT's" in report.warnings[-1]


def test_what_they_do_not_tell_is_said(tmp_path: Path) -> None:
    made.make_spuuntries(BASE, tmp_path / "made")
    report = inspect(tmp_path / "made")
    assert isinstance(report, ThirdPartyReport)
    assert (report.dialect, report.vectors is None) == ("spuuntries", report.unknown is not None)


def test_a_file_without_tensors_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="holds no tensors"):
        inspect(tmp_path / "model.safetensors")
    save_file({"x": np.zeros(1)}, tmp_path / "model.safetensors")
    assert inspect(tmp_path / "model.safetensors").kind == "checkpoint"
