"""Chi-Shan0707/TinyLoRA-Qwen-Coder's files against its formula; a P that is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign_projects as projects
import numpy as np
import pytest
import torch
from dialects import BASE, assert_near, opened, updates_by

from tinylora_tools.errors import FormatError, MismatchError
from tinylora_tools.formats.third_party.chi_shan0707 import recognises

SAID = {"global_v": torch.ones(4), "u_value": 4, "rank": 2, "seed": 212, "model_id": "some/base"}


def written(directory: Path, **change: Any) -> Path:
    torch.save({**SAID, **change}, directory / "tiny_lora_v.pt")
    return directory


def test_its_updates_are_the_formula_s(tmp_path: Path) -> None:
    updates = projects.make_chi_shan0707(BASE, tmp_path / "source")
    adapter = opened(tmp_path / "source")
    weights = projects.linear_layers(BASE)
    assert_near(updates_by(adapter, weights, torch.load(tmp_path / "source" / "kept.pt", weights_only=True)), updates)
    assert (adapter.dialect, adapter.rank, adapter.proj_dim, adapter.trained_in) == ("chi-shan0707", 2, 4, "bfloat16")
    assert adapter.base_model == str(BASE)
    assert adapter.seeds(list(weights)) is None
    assert "it is lost with that run" in adapter.lost_projection()
    assert any("4-bit" in note for note in adapter.notes)


def test_diagonals_become_matrices_and_matrices_stay(tmp_path: Path) -> None:
    adapter = opened(written(tmp_path))
    P = np.arange(8.0).reshape(4, 2)
    assert np.array_equal(adapter.shape_projection(P), np.stack([np.diag(row) for row in P]))
    full = np.ones((4, 2, 2))
    assert adapter.shape_projection(full) is full


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rank": 0}, "rank is 0, expected a positive integer"),
        ({"rank": 2.0}, "rank is 2.0, expected a positive integer"),
        ({"u_value": 5}, "global_v has 4 numbers, and u_value is 5"),
        ({"u_value": None}, "global_v has 4 numbers, and u_value is None"),
        ({"global_v": [1.0]}, "global_v is a list, expected a tensor"),
        ({"global_v": torch.ones(4, dtype=torch.int32)}, "global_v is int32, expected a floating-point tensor"),
        ({"global_v": torch.ones(2, 2)}, "its vectors have the shapes (2, 2), expected one (u,)"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_files_that_do_not_do(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises((FormatError, MismatchError)) as caught:
        opened(written(tmp_path, **change))
    assert caught.value.what == what


def test_all_modules_share_the_vector_and_their_number_is_checked(tmp_path: Path) -> None:
    names = ["a.q_proj", "b.q_proj"]
    assert opened(written(tmp_path)).groups(names) == [0, 0]
    assert opened(written(tmp_path, total_replaced_layers=2)).groups(names) == [0, 0]
    with pytest.raises(MismatchError, match="the base has 2 modules to adapt, and the adapter had 3"):
        opened(written(tmp_path, total_replaced_layers=3)).groups(names)


def test_the_best_so_far_has_a_name_of_its_own(tmp_path: Path) -> None:
    torch.save(SAID, tmp_path / "best_tiny_lora_v.pt")
    assert opened(tmp_path).base_model == "some/base"


def test_a_pickle_is_its_own_where_it_says_all_four() -> None:
    assert recognises(SAID)
    for missing in ("global_v", "u_value", "rank", "seed"):
        assert not recognises({name: value for name, value in SAID.items() if name != missing})
    assert not recognises([])
