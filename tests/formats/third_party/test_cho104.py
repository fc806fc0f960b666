"""cho104/TinyLoRA-RL-SVD's files against its formula; its calibration's file, and constraints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign_projects as projects
import numpy as np
import pytest
import torch
from dialects import BASE, assert_near, opened, updates_by
from pickles import pickled

from tinylora_tools.errors import FormatError, MismatchError, UndeterminedError, UnsupportedError
from tinylora_tools.formats.third_party.cho104 import recognises

FACTORS = {"a": {"U_r": torch.ones(5, 2), "Sigma_r": torch.diag(torch.tensor([2.0, 1.0])), "V_r": torch.ones(2, 3)}}


def written(directory: Path, v: Any, factors: Any = FACTORS) -> dict[str, str]:
    """The settings that the files need."""
    torch.save({"v": v}, directory / "best_model.pt")
    torch.save(factors, directory / "svd.pt")
    return {"constraint": "none", "factors": str(directory / "svd.pt")}


@pytest.mark.parametrize("constraint", ["none", "skew_symmetric"])
@pytest.mark.parametrize("tied", [True, False])
def test_its_updates_are_the_formula_s(tmp_path: Path, constraint: str, tied: bool) -> None:
    source = tmp_path / "source"
    updates = projects.make_cho104(BASE, source, constraint=constraint, tied=tied)
    adapter = opened(source, constraint=constraint, factors=str(source / "svd.pt"))
    weights = projects.linear_layers(BASE, ("down_proj",))
    assert_near(updates_by(adapter, weights, torch.load(source / "kept.pt", weights_only=True)), updates)
    assert adapter.names == tuple(weights)
    assert (adapter.dialect, adapter.rank, adapter.proj_dim) == ("cho104", 2, 3)
    assert len(adapter.vectors) == (1 if tied else len(weights))
    assert adapter.seeds(list(weights)) is None
    assert "it is lost with that run" in adapter.lost_projection()


def test_a_skew_constraint_leaves_the_skew_part(tmp_path: Path) -> None:
    said = written(tmp_path, torch.ones(3))
    adapter = opened(tmp_path, **{**said, "constraint": "skew_symmetric"})
    P = np.arange(12.0).reshape(3, 2, 2)
    assert np.array_equal(adapter.shape_projection(P), np.array([[[0, -0.5], [0.5, 0]]] * 3))
    assert opened(tmp_path, **said).shape_projection(P) is P


def test_a_constraint_that_is_not_linear_is_refused_by_name(tmp_path: Path) -> None:
    said = written(tmp_path, torch.ones(3))
    with pytest.raises(UnsupportedError, match="mhc, which makes R no linear map of v"):
        opened(tmp_path, **{**said, "constraint": "mhc"})
    with pytest.raises(FormatError, match="expected one of none, skew_symmetric, mhc"):
        opened(tmp_path, **{**said, "constraint": "skew"})
    for missing in said:
        with pytest.raises(UndeterminedError, match=f"{missing} isn't in the file"):
            opened(tmp_path, **{name: value for name, value in said.items() if name != missing})


@pytest.mark.parametrize(
    ("factors", "what"),
    [
        ({}, "holds no factors"),
        ([1], "holds no factors"),
        ({"a": {"U_r": torch.ones(5, 2)}}, "a: no U_r, Sigma_r and V_r"),
        ({"a": {**FACTORS["a"], "V_r": torch.ones(3, 2)}}, "a: U_r is (5, 2), Sigma_r (2, 2), V_r (3, 2)"),
        ({"a": {**FACTORS["a"], "U_r": torch.ones(5)}}, "a: U_r is (5,), Sigma_r (2, 2), V_r (2, 3)"),
        ({"a": {**FACTORS["a"], "Sigma_r": torch.ones(2)}}, "a: U_r is (5, 2), Sigma_r (2,), V_r (2, 3)"),
        ({"a": {**FACTORS["a"], "Sigma_r": torch.ones(2, 2)}}, "a: U_r is (5, 2), Sigma_r (2, 2), V_r (2, 3)"),
        ({"a": {**FACTORS["a"], "U_r": 3}}, "a.U_r is a int, expected a tensor"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_calibrations_that_do_not_do(tmp_path: Path, factors: Any, what: str) -> None:
    said = written(tmp_path, torch.ones(3), factors)
    with pytest.raises(FormatError) as caught:
        opened(tmp_path, **said)
    assert (caught.value.what, caught.value.where) == (what, said["factors"])


def test_a_calibration_that_is_not_there(tmp_path: Path) -> None:
    said = written(tmp_path, torch.ones(3))
    (tmp_path / "svd.pt").unlink()
    with pytest.raises(FormatError, match="no such file") as caught:
        opened(tmp_path, **said)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Check settings={'factors': ")


def test_a_module_without_a_vector_is_another_calibration_s(tmp_path: Path) -> None:
    said = written(tmp_path, {"b.v": torch.ones(3), "b.v_proj.weight": torch.ones(2, 2)})
    with pytest.raises(MismatchError, match="has no v of a") as caught:
        opened(tmp_path, **said).groups(["a"])
    assert caught.value.hint == "Is this its calibration's file?"


def test_a_pickle_is_its_own_where_it_holds_v_alone() -> None:
    assert recognises(pickled({"v": torch.ones(3)}))
    assert recognises(pickled({"v": {"a.v": torch.ones(3), "w": torch.ones(2, 2)}}))
    for content in ({"v": torch.ones(3), "w": 1}, {"v": 3}, {"v": {}}, {"v": {"w": torch.ones(3)}}, {}, [], None):
        assert not recognises(pickled(content))
