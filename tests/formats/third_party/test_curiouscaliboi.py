"""CuriousCaliBoi/nemotron-lightning-tinylora's files against its formula, and parts that don't fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_projects as projects
import pytest
import torch
from dialects import BASE, assert_near, opened, updates_by
from safetensors.torch import load_file, save_file
from torch import Tensor

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.formats.third_party.curiouscaliboi import recognises


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, projects.Updates]:
    directory = tmp_path_factory.mktemp("made") / "source"
    return directory, projects.make_curiouscaliboi(BASE, directory)


def test_its_updates_are_the_formula_s(made: tuple[Path, projects.Updates]) -> None:
    adapter = opened(made[0])
    weights = projects.linear_layers(BASE)
    assert adapter.names == tuple(weights)
    assert adapter.ordered
    assert (adapter.dialect, adapter.rank, adapter.proj_dim, len(adapter.vectors)) == ("curiouscaliboi", 2, 3, 5)
    assert_near(updates_by(adapter, weights), made[1])


def test_a_file_is_its_own_where_it_has_a_bank(made: tuple[Path, projects.Updates], tmp_path: Path) -> None:
    assert recognises(read_header(made[0] / "adapter.safetensors"))
    assert not recognises(read_header(BASE / "model.safetensors"))


Tensors = dict[str, Tensor]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.update({"bank.v": torch.ones(3)}), "bank.v is (3,), expected (groups, u)"),
        (lambda t: t.update({"bank.v": torch.ones(0, 3)}), "bank.v is (0, 3), expected (groups, u)"),
        (lambda t: t.update({"bank.v": torch.ones(5, 3).int()}), "bank.v is int32, expected a floating-point tensor"),
        (lambda t: t.pop("layers.0.projection"), "lacks layers.0.projection, of model.layers.0.self_attn.q_proj"),
        (lambda t: t.update({"layers.4.projection": torch.ones(3, 2, 2)}), "its projections are of several dtypes"),
    ],
)
def test_files_that_do_not_do(
    made: tuple[Path, projects.Updates], tmp_path: Path, change: Callable[[Tensors], object], what: str
) -> None:
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "adapter.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(FormatError) as caught:
        opened(tmp_path)
    assert (caught.value.what, caught.value.where) == (what, str(tmp_path / "adapter.safetensors"))


def test_parts_that_do_not_fit_are_told_when_they_are_read(made: tuple[Path, projects.Updates], tmp_path: Path) -> None:
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "adapter.safetensors")
    dtype = tensors["layers.1.left"].dtype
    tensors |= {
        "layers.1.left": torch.ones(4, 3, dtype=dtype),
        "layers.2.right": torch.ones(2, dtype=dtype),
        "layers.3.projection": torch.ones(4, 2, 2, dtype=dtype),
    }
    del tensors["layers.4.right"]
    save_file(tensors, tmp_path / "adapter.safetensors")
    adapter = opened(tmp_path)
    assert adapter.names is not None
    of = adapter.names
    for read, what in (
        (lambda: adapter.frozen(of[1]), f"{of[1]}: left is (4, 3), right is "),
        (lambda: adapter.frozen(of[2]), f"{of[2]}: left is "),
        (lambda: adapter.projection(of[3]), f"{of[3]}: its projection is (4, 2, 2), expected (3, 2, 2)"),
        (lambda: adapter.frozen(of[4]), f"lacks layers.4.right, of {of[4]}"),
    ):
        with pytest.raises(FormatError) as caught:
            read()
        assert caught.value.what.startswith(what)


GOOD = {"name": "a", "group_id": 0, "scaling": 1}


@pytest.mark.parametrize(
    "modules",
    [
        None, [], {}, [1], [{**GOOD, "name": 3}], [{**GOOD, "group_id": 0.5}], [{**GOOD, "scaling": None}],
        [{**GOOD, "scaling": 10**400}], [{**GOOD, "scaling": float("nan")}], [{**GOOD, "group_id": True}],
    ],
    ids=lambda modules: str(modules)[:60],
)  # fmt: skip
def test_modules_that_are_no_list_of_objects(made: tuple[Path, projects.Updates], tmp_path: Path, modules: Any) -> None:
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"modules": modules}))
    with pytest.raises(FormatError, match="its modules aren't a list of objects with name, group_id and scaling"):
        opened(tmp_path)
    config.write_text(json.dumps({"modules": [GOOD, GOOD]}))
    with pytest.raises(FormatError, match="names a module twice"):
        opened(tmp_path)
    config.unlink()
    with pytest.raises(FormatError, match=r"no adapter_config\.json beside it, which names the modules"):
        opened(tmp_path)
