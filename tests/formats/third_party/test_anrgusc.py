"""ANRGUSC/TinyLoRA's files against its formula; its groups, and settings that would fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign_projects as projects
import pytest
import torch
from dialects import BASE, assert_near, opened, updates_by
from pickles import pickled

from tinylora_tools.errors import FormatError, MismatchError, UndeterminedError
from tinylora_tools.formats.third_party.anrgusc import recognises

SAID = {"rank": "2", "alpha": "2", "tie_mode": "tiled", "tie_factor": "5"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, projects.Updates]:
    directory = tmp_path_factory.mktemp("made") / "source"
    return directory, projects.make_anrgusc(BASE, directory)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return projects.linear_layers(BASE)


def test_its_updates_are_the_formula_s(made: tuple[Path, projects.Updates], weights: dict[str, torch.Tensor]) -> None:
    adapter = opened(made[0], **SAID)
    assert_near(updates_by(adapter, weights), made[1])
    assert (adapter.dialect, adapter.rank, adapter.proj_dim, adapter.trained_in) == ("anrgusc", 2, 3, "float32")
    assert adapter.base_model == str(BASE)


@pytest.mark.parametrize(("mode", "factor"), [("none", 1), ("all", 1), ("tiled", 7), ("structured", 4)])
def test_groups_of_every_mode(mode: str, factor: int, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    updates = projects.make_anrgusc(BASE, tmp_path / "source", mode=mode, factor=factor)
    said = {**SAID, "tie_mode": mode, "tie_factor": str(factor)}
    if mode in ("none", "all"):
        del said["tie_factor"]
    assert_near(updates_by(opened(tmp_path / "source", **said), weights), updates)


@pytest.mark.parametrize("missing", SAID)
def test_what_no_file_says_is_asked_for(made: tuple[Path, projects.Updates], missing: str) -> None:
    with pytest.raises(UndeterminedError, match=f"{missing} isn't in the file: ") as caught:
        opened(made[0], **{name: value for name, value in SAID.items() if name != missing})
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"Give it with settings={{'{missing}': ")


def test_the_seed_is_the_manifest_s_unless_another_is_said(
    made: tuple[Path, projects.Updates], weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    names = list(weights)[:2]
    seeds = opened(made[0], **SAID).seeds(names)
    other = opened(made[0], **SAID, seed="14").seeds(names)
    assert seeds is not None
    assert other == [seed + 1 for seed in seeds]
    projects.make_anrgusc(BASE, tmp_path / "bare", manifest=False)
    with pytest.raises(UndeterminedError, match="seed isn't in the file"):
        opened(tmp_path / "bare", **SAID)
    (tmp_path / "bare" / "manifest.json").write_text(json.dumps({"metadata": {"seed": True}}))
    with pytest.raises(UndeterminedError, match="seed isn't in the file"):
        opened(tmp_path / "bare", **SAID)


def test_other_groups_than_the_stored_ones_name_those_that_fit(
    made: tuple[Path, projects.Updates], weights: dict[str, torch.Tensor]
) -> None:
    adapter = opened(made[0], **{**SAID, "tie_factor": "6"})
    with pytest.raises(
        MismatchError, match="tie_mode=tiled with tie_factor=6 makes 14 groups of the base's 84"
    ) as told:
        adapter.groups(list(weights))
    assert told.value.hint == "These would fit: tie_mode=tiled tie_factor=5."
    with pytest.raises(MismatchError) as told:
        adapter.groups(list(weights)[1:])
    assert told.value.hint == "Is this the base that the adapter was trained on, and are target_modules right?"


def test_targets_are_last_parts_of_names(made: tuple[Path, projects.Updates]) -> None:
    adapter = opened(made[0], **SAID, target_modules="q_proj, proj")
    adapted = [adapter.adapts(name) for name in ("model.layers.0.self_attn.q_proj", "proj", "model.v_proj", "xq_proj")]
    assert adapted == [True, True, False, False]
    with pytest.raises(FormatError, match="this dialect has no such setting"):
        opened(made[0], **SAID, targets="q_proj")


@pytest.mark.parametrize(
    ("content", "its"),
    [
        ({"a.v": torch.zeros(3)}, True),
        ({"a.v": torch.zeros(3), "b.w": torch.zeros(3)}, False),
        ({"a.v": [1.0]}, False),
        ({}, False),
        ([], False),
        ({5: torch.zeros(3)}, False),
    ],
    ids=str,
)
def test_a_pickle_is_its_own_where_every_name_is_a_v(content: Any, its: bool) -> None:
    assert recognises(pickled(content)) is its
