"""The factors that a base gives back: measured, and corrected where that is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fixture_data import fixture
from hypothesis import given
from hypothesis import strategies as st
from packed_files import restored
from safetensors.torch import load_file, save_file

from tinylora_tools.core.svd.canonical import Canonical, canonical_factors
from tinylora_tools.errors import MismatchError
from tinylora_tools.formats.peft.adapter import Factors
from tinylora_tools.ops.convert import packed_factors as module
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.convert.packed_factors import MOST_ERROR, Restored, corrections_of
from tinylora_tools.ops.convert.packed_factors import restored as restored_factors


def test_a_large_error_gets_corrections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = fixture("peft021-13-numbers")
    few = pack(case.adapter, tmp_path / "few.safetensors", base=case.base)
    monkeypatch.setattr(module, "MOST_ERROR", few.error / 2)
    more = pack(case.adapter, tmp_path / "more.safetensors", base=case.base)
    assert more.corrections > few.corrections
    assert more.error < few.error
    restored(tmp_path / "more.safetensors", case.base)


def test_another_base_can_t_be_packed_with(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    base = tmp_path / "base"
    shutil.copytree(case.base, base)
    state = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    other = {k: torch.randn(v.shape, generator=generator).to(v.dtype) for k, v in state.items()}
    save_file(other, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match="aren't those of the base's weight"):
        pack(case.adapter, tmp_path / "p.safetensors", base=base)
    assert not (tmp_path / "p.safetensors").exists()


def canonical(seed: int, dtype: torch.dtype = torch.bfloat16) -> Canonical:
    return canonical_factors(torch.randn(12, 9, generator=torch.Generator().manual_seed(seed)).to(dtype), 3)


@pytest.mark.parametrize("flipped", [[False, False, False], [True, False, True]], ids=str)
def test_signs_alone_give_back_canonical_factors(flipped: list[bool]) -> None:
    base, R = canonical(0), np.eye(3)
    wanted = base.signed(np.array(flipped))
    found = restored_factors(Factors(wanted.A, wanted.B), base, R, R, exact=True)
    assert found.flipped.tolist() == flipped
    assert (found.A.tobytes(), found.B.tobytes()) == (wanted.A.tobytes(), wanted.B.tobytes())
    assert found.error == 0.0
    unsure = np.concatenate([base.unsure_a.ravel(), base.unsure_b.ravel()])
    assert found.places.tolist() == np.flatnonzero(unsure).tolist()


@pytest.mark.parametrize("size", [1e-5, 1e-2])
def test_the_error_is_the_update_s_in_float64(size: float) -> None:
    """Below the largest error that is left as it is, and above."""
    base, rng = canonical(1, torch.float32), np.random.default_rng(0)
    A = (base.A * (1 + size * rng.standard_normal(base.A.shape))).astype(np.float32)
    R = rng.standard_normal((3, 3))
    rounded = R.astype(np.float16).astype(np.float64)
    found = restored_factors(Factors(A, base.B), base, R, rounded, exact=False)
    exact = base.B.astype(np.float64) @ R @ A
    given_back = found.B.astype(np.float64) @ rounded @ found.A
    off = np.linalg.norm(given_back - exact) / np.linalg.norm(exact)
    assert (np.array_equal(found.A, A)) == (size > MOST_ERROR)
    if size > MOST_ERROR:
        assert found.error == pytest.approx(off, rel=1e-6)
    else:  # entries that may round either way are corrected, which the error doesn't count
        assert off * (1 - 1e-9) <= found.error <= 2 * off  # two sums of one thing, in orders of their own


@given(st.data())
def test_corrections_put_the_entries_at_their_places(data: st.DataObject) -> None:
    """Whichever of the two forms is shorter."""
    modules, wanted = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        A, B = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5), (4, 2)))
        entries = np.concatenate([A.ravel(), B.ravel()])
        places = np.flatnonzero(rng.random(len(entries)) < data.draw(st.sampled_from([0.0, 0.1, 0.9])))
        modules.append(Restored(A, B, np.zeros(2, bool), places, entries[places], 0.0))
        wanted.append(entries)
    stored, flat = corrections_of(modules, ["float32"]), np.concatenate(wanted)
    total = sum(len(one.places) for one in modules)
    assert bool(stored) == bool(total)
    if total:
        index = stored.get("corrections.index", np.arange(len(flat)))
        assert len(index) == (total if 2 * total < len(flat) else len(flat))
        assert np.array_equal(flat[index], stored["corrections.value"])


def test_factors_of_another_shape_are_another_base_s(tmp_path: Path) -> None:
    case, other = fixture("peft021-scalar"), fixture("peft021-layers")
    with pytest.raises(MismatchError, match=r"the factors are for a weight of shape .*, the base's is"):
        pack(case.adapter, tmp_path / "p.safetensors", base=other.base)
    assert not (tmp_path / "p.safetensors").exists()
