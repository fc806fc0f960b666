"""Where P come from, against PEFT's own files and P that torch draws."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edited_files import Tensors, edited_copy
from fixture_data import FIXTURES, Fixture, fixture

from tinylora_tools.adapters.provenance import (
    HASHED_OFFSETS,
    Provenance,
    drawn_projections,
    provenance,
    regime,
    require_seed,
    shared_offsets,
    stored_projections,
)
from tinylora_tools.core.streams.projection import draw
from tinylora_tools.errors import UndeterminedError
from tinylora_tools.formats.peft.adapter import PeftAdapter, read_adapter

LAYERS = fixture("peft021-layers")  # seeds 42 to 47, bfloat16
NAMES = [row["name"] for row in LAYERS.modules]

REGIMES = {
    **dict.fromkeys(("peft019-shared", "peft019-scalar", "peft019-seed-only", "peft019-experts"), "shared-projection"),
    **dict.fromkeys(("peft019-two", "peft020-second"), "seed-plus-other-index"),
}


def key(module: str) -> str:
    return f"base_model.model.{module}.tinylora_P"


@pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)
def test_each_release_s_regime_is_told(case: Fixture) -> None:
    header = read_adapter(case.adapter)
    found = provenance(header)
    assert regime(header, found) == REGIMES.get(case.name, "seed-plus-index")
    if case.name not in REGIMES and header.has_projections:
        places = {row["name"]: i for i, row in enumerate(case.modules)}
        assert all(places[name] in offsets for name, offsets in found.offsets.items())
        assert found.order in (None, list(places))
    assert found.shared == (REGIMES.get(case.name) == "shared-projection" and header.has_projections)


def test_a_single_number_may_come_from_several_seeds() -> None:
    """u = r = 1 in 16 bits: then the order isn't told by the P."""
    assert Provenance({"a": (1,), "b": (0,)}, False).order == ["b", "a"]
    assert Provenance({"a": (1, 5), "b": (0,)}, False).order is None
    assert Provenance({"a": (0,), "b": (0,)}, False).order is None
    assert Provenance({"a": (1,), "b": (2,)}, False).order is None
    assert Provenance({}, False).order is None


def rounded_otherwise(tensors: Tensors) -> None:
    """As a machine whose float32 functions differ in the last bits would store it: one step of bfloat16 here."""
    P = tensors[key(NAMES[2])]
    P.view(np.uint32)[1, 0, 1] += 1 << 16


def changed(tensors: Tensors) -> None:
    tensors[key(NAMES[2])][1, 0, 1] *= 1.1


def test_rounding_of_another_machine_is_allowed_for_and_a_change_is_not(tmp_path: Path) -> None:
    other = read_adapter(edited_copy(LAYERS.name, tmp_path / "other", rounded_otherwise))
    assert provenance(other).offsets[NAMES[2]] == (2,)
    assert provenance(other).order == NAMES
    tampered = read_adapter(edited_copy(LAYERS.name, tmp_path / "tampered", changed))
    found = provenance(tampered)
    assert found.offsets[NAMES[2]] == ()
    assert found.order is None
    assert regime(tampered, found) == "seed-plus-index"  # one that was changed doesn't hide the others


def test_p_of_nobody_s_are_just_stored(tmp_path: Path) -> None:
    def own(tensors: Tensors) -> None:
        rng = np.random.default_rng(0)
        for name in NAMES:
            tensors[key(name)] = rng.standard_normal((3, 2, 2)).astype(np.float32)

    header = read_adapter(edited_copy(LAYERS.name, tmp_path / "a", own))
    found = provenance(header)
    assert (found.offsets, found.shared, regime(header, found)) == ({}, False, "stored-projection")


def test_offsets_far_beyond_the_adapter_s_own_modules_are_found(tmp_path: Path) -> None:
    """As of an adapter that was added to a model whose first one had many targets."""
    header = read_adapter(edited_copy(LAYERS.name, tmp_path / "a", projection_seed=42 - 1000))
    found = provenance(header)
    assert found.offsets == {name: (1000 + i,) for i, name in enumerate(NAMES)}
    assert regime(header, found) == "seed-plus-other-index"


def torchs(seed: int, u: int, r: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """P as PEFT asks torch for it."""
    generator = torch.Generator().manual_seed(seed)
    P: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = torch.normal(
        mean=0.0, std=1.0 / math.sqrt(r), size=(u, r, r), generator=generator
    ).numpy()
    return P


def test_the_salted_offset_of_a_shared_p_is_found() -> None:
    """By drawing it with torch again; the module whose P differs is told by comparing with the usual one."""
    header = read_adapter(fixture("peft019-shared").adapter)
    stored = {name: P.astype(np.float32) for name, P in stored_projections(header).items()}
    offsets, usual = shared_offsets(stored, 42)
    assert len(offsets) == 1
    assert 0 <= offsets[0] < HASHED_OFFSETS
    drawn = torch.from_numpy(torchs(42 + offsets[0], 13, 2)).bfloat16().float().numpy()
    odd = next(iter(stored))
    assert np.mean(drawn == stored[odd]) > 0.9  # but for the rounding of this machine
    with_odd = stored | {odd: stored[odd] + 1}
    assert shared_offsets(with_odd, 42)[0] == offsets
    assert [name for name, P in shared_offsets(with_odd, 42)[1].items() if np.any(with_odd[name] != P)] == [odd]
    assert shared_offsets(stored, 43 + offsets[0])[0] == []
    assert all(np.array_equal(usual[name], P) for name, P in stored.items())


def test_p_of_every_shape_have_to_share_the_offset() -> None:
    """A weight smaller than r has a P of its own shape, drawn from the same seed."""
    stored = {"a": draw(42 + 77, 5, 3), "b": draw(42 + 77, 5, 2)}
    offsets, usual = shared_offsets(stored, 42)
    assert offsets == [77]
    assert all(np.array_equal(usual[name], P) for name, P in stored.items())
    assert shared_offsets(stored | {"b": draw(42 + 78, 5, 2)}, 42)[0] == []


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("0.18.2.dev0", "shared-projection"),
        ("0.19.1", "shared-projection"),
        ("0.19.2.dev0@a0887f672c5ed7af635519be17eebc641be14afa", "shared-projection"),
        ("0.19.2.dev0@76c37d4686cf7245a9a6998fd1e2619d62c9322d", "seed-plus-index"),
        ("0.19.2.dev0@UNKNOWN", "unknown"),
        ("0.20.0", "seed-plus-index"),
    ],
)
def test_which_releases_lost_the_seed(version: str, found: str, tmp_path: Path) -> None:
    header = read_adapter(edited_copy("peft020-seed-only", tmp_path / "a", peft_version=version))
    assert regime(header, provenance(header)) == found
    if found == "shared-projection":
        with pytest.raises(UndeterminedError, match=f"PEFT {version} drew P from a seed that Python's hash salted"):
            require_seed(header)
    elif found == "unknown":
        with pytest.raises(UndeterminedError, match=r"before peft#3180 of 21 April 2026, from a salted hash") as caught:
            require_seed(header)
        assert "seeding='index'" in str(caught.value.hint)
        assert require_seed(replace(header, said_seeding="index")) == header.config
    else:
        assert require_seed(header) == header.config


def test_stored_p_tell_what_a_release_does_not(tmp_path: Path) -> None:
    """0.19.2.dev0 straddles the change: PEFT's commits on both sides of it give these P."""
    for name, found in (("peft021-layers", "seed-plus-index"), ("peft019-shared", "shared-projection")):
        header = read_adapter(edited_copy(name, tmp_path / name, peft_version="0.19.2.dev0@UNKNOWN"))
        assert regime(header, provenance(header)) == found


def without_config(case: Fixture, directory: Path) -> PeftAdapter:
    adapter = edited_copy(case.name, directory)
    (adapter / "adapter_config.json").unlink()
    return read_adapter(adapter)


def test_without_a_configuration_a_p_that_is_not_stored_is_lost(tmp_path: Path) -> None:
    header = without_config(fixture("peft020-seed-only"), tmp_path / "a")
    assert regime(header, provenance(header)) == "unknown"
    names = list(header.modules)
    with pytest.raises(UndeterminedError, match=r"without an adapter_config\.json that names its seed") as caught:
        drawn_projections(header, names, dict.fromkeys(names, 0), lambda module: "float32")
    assert caught.value.hint == "Put the adapter_config.json that was saved with it beside the file."


def test_drawn_ones_are_torchs_at_each_module_s_place() -> None:
    """Of two ranks, rounded to each module's own dtype."""
    header = read_adapter(fixture("peft021-bias-own").adapter)  # u = 3; r = 4, cut down to 3 for the classifier
    names = list(header.modules)
    places = {name: 7 * i for i, name in enumerate(names)}
    dtypes = dict(zip(names, ("float32", "float16", "bfloat16"), strict=True))
    found = drawn_projections(header, names, places, dtypes.__getitem__, stream="torch")
    assert {P.shape for P in found.values()} == {(3, 4, 4), (3, 3, 3)}
    for name, P in found.items():
        wanted = torch.from_numpy(torchs(42 + places[name], 3, header.modules[name].rank))
        assert P.tobytes() == wanted.to(getattr(torch, dtypes[name])).float().numpy().tobytes()
