"""Merged models without a manifest, beside what the merge would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edited_files import edit
from fixture_data import fixture
from safetensors.numpy import load_file

from tinylora_tools import MismatchError, diff, merge, merged

CASE = fixture("peft021-layers")
HEAD = fixture("peft021-lm-head")

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("case", "given"),
    [
        (CASE, {}),
        (CASE, {"scale": -0.5}),
        (CASE, {"dtype": "float32"}),
        (fixture("peft020-seed-only"), {}),
        (fixture("peft021-13-numbers"), {"dtype": "float16"}),
        (HEAD, {}),
        (HEAD, {"tied": "share"}),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_it_is_what_a_merge_writes(case: Any, given: dict[str, Any], tmp_path: Path) -> None:
    """Every tensor and every setting, in whatever dtype and with whatever ties it was merged."""
    merge(case.adapter, tmp_path / "merged", case.base, **given)
    scale = {"scale": given["scale"]} if "scale" in given else {}
    wanted = merged(case.adapter, base=case.base, like=tmp_path / "merged", **scale)
    report = diff(tmp_path / "merged", wanted)
    assert (report.equal, report.identical, report.settings) == (True, len(wanted.files), {})
    stored = {n: a for p in (tmp_path / "merged").glob("*.safetensors") for n, a in load_file(p).items()}
    assert stored.keys() == wanted.files.keys()
    for name, array in stored.items():
        read = wanted.files[name].read(name)
        assert (read.shape, read.tobytes()) == (array.shape, array.tobytes())


def test_what_peft_merged_is_within_its_rounding() -> None:
    assert CASE.merged is not None
    wanted = merged(CASE.adapter, base=CASE.base, like=CASE.merged)
    assert diff(CASE.merged, wanted, tolerance=1e-2).equal
    assert not diff(CASE.base, wanted, tolerance=1e-2).equal


def test_two_adapters_and_one_that_is_missing(tmp_path: Path) -> None:
    merge([CASE.adapter, CASE.adapter], tmp_path / "merged", CASE.base, scale=(1.0, 0.5))
    both = merged([CASE.adapter, CASE.adapter], base=CASE.base, like=tmp_path / "merged", scale=(1.0, 0.5))
    assert diff(tmp_path / "merged", both).equal
    assert not diff(tmp_path / "merged", merged(CASE.adapter, base=CASE.base, like=tmp_path / "merged")).equal
    with pytest.raises(MismatchError, match="2 scales for 1 adapters"):
        merged(CASE.adapter, base=CASE.base, like=tmp_path / "merged", scale=(1.0, 0.5))


def test_a_bit_that_flipped_is_found(tmp_path: Path, tinylora: Run) -> None:
    merge(CASE.adapter, tmp_path / "merged", CASE.base)
    line = ("diff", tmp_path / "merged", CASE.base, "--adapter", CASE.adapter)
    assert (tinylora(*line).code, tinylora(*line, "--scale", "2").code) == (0, 1)
    assert tinylora("diff", tmp_path / "merged", CASE.base, "--scale", "2").code == 2
    name = "model.norm.weight"

    def flip(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1).view("u2")[0] ^= 1

    edit(tmp_path / "merged" / "model.safetensors", flip)
    result = tinylora(*line)
    assert (result.code, name in result.out) == (1, True), result
