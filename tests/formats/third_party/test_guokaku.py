"""GuoKaku/TinyLora_Reproduce's checkpoints against its formula, and parts that don't fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import foreign_projects as projects
import numpy as np
import pytest
import torch
from dialects import BASE, assert_near, opened, updates_by
from safetensors.torch import load_file, save_file
from torch import Tensor

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.formats.third_party.guokaku import recognises

FIRST = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, projects.Updates]:
    directory = tmp_path_factory.mktemp("made") / "source"
    return directory, projects.make_guokaku(BASE, directory)


def test_its_updates_are_the_formula_s(made: tuple[Path, projects.Updates]) -> None:
    adapter = opened(made[0])
    weights = projects.linear_layers(BASE)
    assert adapter.names is not None
    assert set(adapter.names) == set(weights)
    assert not adapter.ordered
    assert (adapter.dialect, adapter.rank, adapter.proj_dim) == ("guokaku", 2, 3)
    assert_near(updates_by(adapter, weights), made[1])


def test_modules_with_the_same_v_form_a_group(made: tuple[Path, projects.Updates]) -> None:
    adapter = opened(made[0])
    names = list(projects.linear_layers(BASE))
    size = int(0.3 * len(names))
    places = [i // size for i in range(len(names))]
    groups = adapter.groups(names)
    assert len(adapter.vectors) == len(set(places))
    for i, place in enumerate(places):
        assert np.array_equal(adapter.vectors[groups[i]], projects.vector(3, place).numpy())


def test_the_checkpoint_is_the_base_s_too(made: tuple[Path, projects.Updates]) -> None:
    adapter = opened(made[0])
    assert adapter.checkpoint is not None
    base = load_file(BASE / "model.safetensors")
    found = adapter.checkpoint.read(f"{FIRST}.weight")
    assert found.tobytes() == base[f"{FIRST}.weight"].view(torch.uint8).numpy().tobytes()


def test_a_checkpoint_is_its_own_where_a_module_has_all_parts(
    made: tuple[Path, projects.Updates], tmp_path: Path
) -> None:
    assert recognises(read_checkpoint(made[0]))
    assert not recognises(read_checkpoint(BASE))
    state = {f"a.{part}": torch.ones(1) for part in "USVP"}
    save_file(state, tmp_path / "model.safetensors")
    assert not recognises(read_checkpoint(tmp_path))
    save_file(state | {"a.v": torch.ones(1)}, tmp_path / "model.safetensors")
    assert recognises(read_checkpoint(tmp_path))


Tensors = dict[str, Tensor]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda t: t.update({f"{FIRST}.v": torch.ones(4)}),
            "its vectors have the shapes (3,), (4,), expected one (u,)",
        ),
        (
            lambda t: t.update({f"{FIRST}.v": torch.ones(3).int()}),
            f"{FIRST}.v is int32, expected a floating-point tens",
        ),
        (
            lambda t: t.update({f"{FIRST}.P": torch.ones(3).int()}),
            f"{FIRST}.P is int32, expected a floating-point tens",
        ),
        (
            lambda t: t.update({name: torch.ones(3, 2) for name in t if name.endswith(".P")}),
            "no P is (u, r, r)",
        ),
    ],
)
def test_checkpoints_that_do_not_do(
    made: tuple[Path, projects.Updates], tmp_path: Path, change: Callable[[Tensors], object], what: str
) -> None:
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(FormatError) as caught:
        opened(tmp_path)
    assert caught.value.what.startswith(what)


@pytest.mark.parametrize(("part", "shape"), [("U", (4, 3)), ("S", (2, 2)), ("V", (5, 1))])
def test_factors_that_do_not_fit_are_told_when_they_are_read(
    made: tuple[Path, projects.Updates], tmp_path: Path, part: str, shape: tuple[int, ...]
) -> None:
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {f"{FIRST}.{part}": torch.ones(shape)}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError) as caught:
        opened(tmp_path).frozen(FIRST)
    assert caught.value.what.startswith(f"{FIRST}: U is (")
    assert str(shape) in caught.value.what
