"""Factors that are kept: found again, for the same weights alone, whole or not at all, and no more than fit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_data import ROOT, fixture

from tinylora_tools import merge, pack, to_lora
from tinylora_tools.bases import kept_factors
from tinylora_tools.bases.base import Base
from tinylora_tools.bases.kept_factors import KeptFactors, KeptMark, cache_directory, kept_files, without_kept_factors
from tinylora_tools.bases.modules import Module
from tinylora_tools.core.svd.entries import Canonical
from tinylora_tools.formats.tensors import TensorInfo

CASE = fixture("peft021-13-numbers")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that factors are kept in."""
    monkeypatch.setenv(kept_factors.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def module(name: str, out: int, columns: int) -> Module:
    return Module(name, "Linear", TensorInfo(f"{name}.weight", "BF16", (out, columns), 0, 2 * out * columns))


MODULES = [module("a", 5, 3), module("b", 1, 4)]
BFLOAT16 = {"a": "bfloat16", "b": "bfloat16"}


def factors(seed: int = 0) -> dict[str, Canonical]:
    rng = np.random.default_rng(seed)

    def part(*shape: int) -> Any:
        return (rng.integers(-64, 64, shape) / 8).astype(np.float32)  # bfloat16 values

    def some(*shape: int) -> Any:
        return rng.random(shape) < 0.3

    return {
        one.name: Canonical(
            part(one.rank(2), one.in_features),
            part(one.out_features, one.rank(2)),
            some(one.rank(2), one.in_features),
            some(one.out_features, one.rank(2)),
        )
        for one in MODULES
    }


def same(one: Mapping[str, Canonical] | None, other: Mapping[str, Canonical]) -> bool:
    names = ("A", "B", "unsure_a", "unsure_b")
    return one is not None and all(
        np.array_equal(getattr(one[name], part), getattr(other[name], part)) for name in other for part in names
    )


@pytest.mark.parametrize("dtypes", [BFLOAT16, {"a": "float32", "b": "bfloat16"}], ids=["one dtype", "two"])
def test_what_is_kept_is_read(dtypes: dict[str, str], kept: Path) -> None:
    assert KeptFactors("mark", MODULES, 2, dtypes).read() is None
    KeptFactors("mark", MODULES, 2, dtypes).keep(factors())
    assert same(KeptFactors("mark", MODULES, 2, dtypes).read(), factors())
    assert [path.suffix for path in kept.iterdir()] == [".npz"]


def test_other_weights_have_other_factors(kept: Path) -> None:
    KeptFactors("mark", MODULES, 2, BFLOAT16).keep(factors())
    assert KeptFactors("other", MODULES, 2, BFLOAT16).read() is None
    assert KeptFactors("mark", MODULES, 1, BFLOAT16).read() is None
    assert KeptFactors("mark", MODULES, 2, {**BFLOAT16, "a": "float32"}).read() is None


def test_what_is_damaged_is_not_read(kept: Path) -> None:
    KeptFactors("mark", MODULES, 2, BFLOAT16).keep(factors())
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        found = KeptFactors("mark", MODULES, 2, BFLOAT16).read()
        assert found is None or same(found, factors()), place
    for size in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert KeptFactors("mark", MODULES, 2, BFLOAT16).read() is None


def test_the_oldest_goes_where_there_is_too_much(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        KeptFactors(str(number), MODULES, 2, BFLOAT16).keep(factors(number))
    size = sum(state.st_size for _, state in kept_files(kept))
    for number, (path, _) in enumerate(kept_files(kept)):
        os.utime(path, ns=(0, -number * 10**9 + 10**12))
    oldest = kept_files(kept)[-1][0]
    assert KeptFactors("0", MODULES, 2, BFLOAT16).read() is not None  # which makes it the newest
    monkeypatch.setattr(kept_factors, "LIMIT", size)
    KeptFactors("new", MODULES, 2, BFLOAT16).keep(factors())
    assert len(kept_files(kept)) == 4
    assert all(KeptFactors(mark, MODULES, 2, BFLOAT16).read() is not None for mark in ("0", "new"))
    assert not oldest.exists() or KeptFactors("0", MODULES, 2, BFLOAT16)._path == oldest
    monkeypatch.setattr(kept_factors, "LIMIT", 10)
    KeptFactors("large", MODULES, 2, BFLOAT16).keep(factors())
    assert KeptFactors("large", MODULES, 2, BFLOAT16).read() is None


def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(kept_factors.VARIABLE, str(tmp_path / "file"))
    KeptFactors("mark", MODULES, 2, BFLOAT16).keep(factors())
    assert KeptFactors("mark", MODULES, 2, BFLOAT16).read() is None
    monkeypatch.setenv(kept_factors.VARIABLE, "")
    assert cache_directory() is None
    monkeypatch.delenv(kept_factors.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = cache_directory()
    assert found is not None
    assert (found.name, found.parent.name) == ("factors", "tinylora")


def test_a_second_merge_of_a_packed_adapter_factors_nothing(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does that of another adapter of the same weights; and what is packed, or restored, is the same without."""
    packed = tmp_path / "packed.safetensors"
    with without_kept_factors():
        pack(CASE.adapter, packed, base=CASE.base)
        merge(packed, tmp_path / "first", CASE.base)
        assert not kept.exists()
    merge(packed, tmp_path / "second", CASE.base)
    assert sorted(path.suffix for path, _ in kept_files(kept)) == [".mark", ".npz"]
    monkeypatch.setattr("tinylora_tools.adapters.unpack.weights_mark", None)
    monkeypatch.setattr("tinylora_tools.adapters.unpack.canonical_of", None)
    monkeypatch.setattr("tinylora_tools.ops.convert.packed_content.canonical_of", None)
    merge(packed, tmp_path / "third", CASE.base)
    pack(CASE.adapter, tmp_path / "again.safetensors", base=CASE.base)
    to_lora(packed, tmp_path / "lora", base=CASE.base)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second", "third")]
    assert weights[0] == weights[1] == weights[2]
    assert (tmp_path / "again.safetensors").read_bytes() == packed.read_bytes()


def test_other_factors_than_they_should_be_are_computed_again(tmp_path: Path, kept: Path) -> None:
    packed = tmp_path / "packed.safetensors"
    pack(CASE.adapter, packed, base=CASE.base)
    (path,) = kept.glob("*.npz")
    with np.load(path) as held:
        entries, unsure = held["entries"].copy(), held["unsure"]
    entries[0] ^= 1
    np.savez(path, entries=entries, unsure=unsure)
    merge(packed, tmp_path / "first", CASE.base)
    with np.load(path) as held:
        assert held["entries"][0] == entries[0] ^ 1
    with without_kept_factors():
        merge(packed, tmp_path / "second", CASE.base)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


def test_the_fingerprint_of_files_that_are_as_they_were_is_known(tmp_path: Path, kept: Path) -> None:
    copied = tmp_path / "base"
    shutil.copytree(CASE.base, copied)
    weights, modules = copied / "model.safetensors", MODULES

    def known() -> KeptMark:
        return KeptMark(Base(copied), modules)

    known().keep("mark")
    assert not kept.exists()  # they were changed just now
    real = time.time_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinylora_tools.bases.kept_factors.time.time_ns", lambda: real() + 10**10)
        known().keep("mark")
        assert known().read() == "mark"
        assert KeptMark(Base(copied), MODULES[:1]).read() is None
        data, state = weights.read_bytes(), weights.stat()
        weights.write_bytes(data)
        os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))  # as some programs do that copy
        assert known().read() is None
        known().keep("mark")
        (copied / "config.json").write_text((copied / "config.json").read_text() + " ")
        assert known().read() is None
        with without_kept_factors():
            assert known().read() is None


def test_kept_factors_cost_no_torch(tmp_path: Path, kept: Path) -> None:
    packed = tmp_path / "packed.safetensors"
    pack(CASE.adapter, packed, base=CASE.base)
    script = """
import sys
sys.modules["torch"] = None
from tinylora_tools import merge, to_lora
merge(sys.argv[1], sys.argv[2] + "/merged", sys.argv[3])
to_lora(sys.argv[1], sys.argv[2] + "/lora", base=sys.argv[3])
"""
    subprocess.run([sys.executable, "-c", script, packed, tmp_path, CASE.base], check=True, cwd=ROOT)
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
