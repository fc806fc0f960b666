"""spuuntries/tinylora's files against its formula, and configurations that don't fit them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign_projects as projects
import pytest
import torch
from dialects import BASE, assert_near, opened, updates_by
from pickles import pickled

from tinylora_tools.errors import FormatError, MismatchError
from tinylora_tools.formats.third_party.spuuntries import recognises

SAID = {"rank": 2, "proj_dim": 3, "n_tie": 2, "target_modules": ["q_proj"], "num_adapted": 5}


def written(directory: Path, said: dict[str, Any] | None = SAID, count: int = 2) -> Path:
    torch.save({f"v_{i}": torch.full((3,), float(i)) for i in range(count)}, directory / "adapter.pt")
    if said is not None:
        (directory / "config.json").write_text(json.dumps(said))
    return directory


@pytest.mark.parametrize("n_tie", [1, 4, 5, 100])
def test_its_updates_are_the_formula_s(tmp_path: Path, n_tie: int) -> None:
    updates = projects.make_spuuntries(BASE, tmp_path / "source", n_tie=n_tie)
    adapter = opened(tmp_path / "source")
    weights = projects.linear_layers(BASE)
    assert_near(updates_by(adapter, weights), updates)
    assert all(map(adapter.adapts, weights))
    assert (adapter.dialect, adapter.rank, adapter.proj_dim, adapter.trained_in) == ("spuuntries", 2, 4, "weight")
    assert any("rounded to the weights' dtype" in note for note in adapter.notes)


def test_the_last_group_takes_the_rest(tmp_path: Path) -> None:
    adapter = opened(written(tmp_path))
    names = [f"{i}.q_proj" for i in range(5)]
    assert adapter.groups(names) == [0, 0, 1, 1, 1]
    assert adapter.seeds(names) == [42, 43, 44, 45, 46]


@pytest.mark.parametrize("count", [4, 6, 3])
def test_another_number_of_modules_is_another_base(tmp_path: Path, count: int) -> None:
    with pytest.raises(MismatchError, match=f"the base's {count} modules make {count // 2} groups of 2") as caught:
        opened(written(tmp_path)).groups([f"{i}.q_proj" for i in range(count)])
    assert caught.value.hint == "Is this the base that the adapter was trained on?"


def test_vectors_are_numbered_without_a_gap(tmp_path: Path) -> None:
    written(tmp_path)
    torch.save({"v_0": torch.zeros(3), "v_2": torch.zeros(3)}, tmp_path / "adapter.pt")
    with pytest.raises(FormatError, match="lacks v_1"):
        opened(tmp_path)


def test_more_than_ten_vectors_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    adapter = opened(written(tmp_path, {**SAID, "n_tie": 1, "num_adapted": 12}, 12))
    assert [float(v[0]) for v in adapter.vectors] == list(range(12))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rank": 0}, "rank is 0, expected a positive integer"),
        ({"rank": True}, "rank is True, expected a positive integer"),
        ({"n_tie": "2"}, "n_tie is '2', expected a positive integer"),
        ({"proj_dim": None}, "proj_dim is None, expected a positive integer"),
        ({"target_modules": "q_proj"}, "target_modules is 'q_proj', expected a list of names"),
        ({"target_modules": []}, "target_modules is [], expected a list of names"),
        ({"proj_dim": 4}, "v has 3 numbers, and config.json says proj_dim=4"),
    ],
)
def test_configurations_that_do_not_do(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises((FormatError, MismatchError)) as caught:
        opened(written(tmp_path, {**SAID, **change}))
    assert caught.value.what == what


def test_the_configuration_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no config\.json beside it") as caught:
        opened(written(tmp_path, None))
    assert caught.value.hint == "Put the file beside it that save_adapter wrote."


def test_a_pickle_is_its_own_where_every_name_is_a_numbered_v() -> None:
    assert recognises(pickled({"v_0": torch.zeros(3), "v_10": torch.zeros(3)}))
    for content in ({}, {"v_": torch.zeros(3)}, {"v_0": 1.0}, {"v_0": torch.zeros(3), "w": torch.zeros(3)}, [], {1: 2}):
        assert not recognises(pickled(content))
