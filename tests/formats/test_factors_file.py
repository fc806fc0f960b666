"""Factors files that safetensors' own writer wrote, and what is said of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.factors_file import metadata_of, read_factors

MODULES = {"layer.0": {"fingerprint": "ab", "gaps": [0.5, 0.25]}, "layer.é": {"fingerprint": "cd"}}
TENSORS = {
    f"{name}.{part}": np.ones(shape, np.float32)
    for name in MODULES
    for part, shape in {"U": (5, 2), "S": (2,), "Vh": (2, 3)}.items()
}


def written(directory: Path, metadata: dict[str, str], without: tuple[str, ...] = ()) -> Path:
    path = directory / "factors.safetensors"
    save_file({name: array for name, array in TENSORS.items() if name not in without}, path, metadata)
    return path


def test_what_the_metadata_say_comes_back(tmp_path: Path) -> None:
    found = read_factors(written(tmp_path, metadata_of(16, MODULES, {"torch": "2.13.0", "tinylora_tools": "0.1.0"})))
    assert found.rank == 16
    assert found.modules == MODULES
    assert found.file.metadata["torch"] == "2.13.0"
    assert np.array_equal(found.file.read("layer.0.U"), TENSORS["layer.0.U"])


def test_the_metadata_are_the_documented_ones() -> None:
    assert metadata_of(2, {"a": {"fingerprint": "ab"}}, {"torch": "2.13.0"}) == {
        "format": "tinylora-factors",
        "version": "1",
        "rank": "2",
        "modules": '{"a":{"fingerprint":"ab"}}',
        "torch": "2.13.0",
    }


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"format": "tinylora-packed"}, "isn't a file that `tinylora factor` wrote"),
        ({"format": None}, "isn't a file that `tinylora factor` wrote"),
        ({"version": "2"}, "has version 2, and this release reads 1"),
        ({"version": None}, "has version None, and this release reads 1"),
        ({"rank": None}, "its metadata are damaged"),
        ({"rank": "two"}, "its metadata are damaged"),
        ({"rank": "9" * 5000}, "its metadata are damaged"),
        ({"modules": None}, "its metadata are damaged"),
        ({"modules": "{"}, "its metadata are damaged"),
        ({"modules": "[" * 100_000}, "its metadata are damaged"),
        ({"modules": "[]"}, "its metadata are damaged"),
        ({"modules": "5"}, "its metadata are damaged"),
        ({"modules": '{"layer.0": {}}'}, "its metadata are damaged"),
        ({"modules": '{"layer.0": {"fingerprint": 5}}'}, "its metadata are damaged"),
        ({"modules": '{"layer.0": null}'}, "its metadata are damaged"),
        ({"modules": '{"layer.7": {"fingerprint": ""}}'}, "layer.7.U is missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_metadata_that_are_another_s_or_damaged(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    metadata = {**metadata_of(2, MODULES, {}), **change}
    path = written(tmp_path, {name: value for name, value in metadata.items() if value is not None})
    with pytest.raises(FormatError) as caught:
        read_factors(path)
    assert (caught.value.what, caught.value.where) == (what, str(path))
    assert caught.value.hint


@pytest.mark.parametrize("part", ["U", "S", "Vh"])
def test_a_part_that_is_missing_is_named(tmp_path: Path, part: str) -> None:
    path = written(tmp_path, metadata_of(2, MODULES, {}), (f"layer.é.{part}",))
    with pytest.raises(FormatError, match=f"layer.é.{part} is missing"):
        read_factors(path)
