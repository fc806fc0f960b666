"""What all dialects share: settings that are asked for, the dialect of a directory, and vectors of one size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import foreign_projects as projects
import numpy as np
import pytest
import torch
from dialects import BASE
from fixture_data import FIXTURES
from pickles import pickled

from tinylora_tools.errors import FormatError, UndeterminedError
from tinylora_tools.formats.pickled.stored import load_pickle
from tinylora_tools.formats.third_party import DIALECTS, find, recognise
from tinylora_tools.formats.third_party.adapter import Settings, floating, is_tensor, same_size, vector_of

WHERE = Path("adapter.pt")


def settings(**values: str) -> Settings:
    return Settings(values, WHERE)


@pytest.mark.parametrize("dialect", projects.PROJECTS)
def test_a_directory_s_dialect_is_told_by_what_is_in_it(dialect: str, tmp_path: Path) -> None:
    assert tuple(sorted(projects.PROJECTS)) == DIALECTS
    projects.PROJECTS[dialect][0](BASE, tmp_path / "source")
    found = find(tmp_path / "source")
    assert found is not None
    assert found.dialect == dialect
    assert (find(tmp_path / "source", checkpoints=False) is None) == (dialect == "guokaku")


@pytest.mark.parametrize("name", ["adapter.pt", "adapter_state.pt", "best_model.pt", "tiny_lora_v.pt"])
def test_a_pickle_of_something_else_is_nobody_s(name: str, tmp_path: Path) -> None:
    for content in ({}, [], {"w": torch.zeros(1)}, {"v_0": 3}, {"a.v": [1.0]}, {"v": 1.0}, {3: torch.zeros(1)}, None):
        torch.save(content, tmp_path / name)
        assert find(tmp_path) is None


def test_peft_s_files_are_never_taken_for_another_s(tmp_path: Path) -> None:
    for case in FIXTURES[:3]:
        assert find(case.adapter) is None
    torch.save({"v_0": torch.zeros(3)}, tmp_path / "adapter_model.bin")
    content = load_pickle(tmp_path / "adapter_model.bin")
    assert recognise(tmp_path / "adapter_model.bin", content) is None
    found = recognise(tmp_path / "renamed.bin", content)
    assert found is not None
    assert found.dialect == "spuuntries"


def test_several_adapters_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("adapter.pt", "best_model.pt"):
        torch.save({}, tmp_path / name)
    with pytest.raises(FormatError, match=r"holds best_model\.pt and adapter\.pt") as caught:
        find(tmp_path)
    assert caught.value.hint == "Name the one that you mean."


def test_settings_are_read_by_what_they_should_be() -> None:
    given = settings(a="3", b=" x, y ,,", c="-1.5e3", d="~/p", e="tiled")
    assert given.integer("a", "") == given.positive("a", "") == 3
    assert given.names("b", "", ()) == ("x", "y")
    assert given.number("c", "") == -1500.0
    assert given.path("d", "") == Path.home() / "p"
    assert given.text("e", "", among=("none", "tiled")) == "tiled"
    assert given.integer("other", "", 13) == 13
    assert given.names("more", "", ("q", "v")) == ("q", "v")
    given.finish()


def test_a_setting_that_is_needed_is_asked_for() -> None:
    with pytest.raises(UndeterminedError) as caught:
        settings().positive("rank", "it is frozen_rank")
    assert str(caught.value) == "adapter.pt: rank isn't in the file: it is frozen_rank"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Give it with settings={'rank': ")


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda s: s.integer("a", ""), "settings={'a': '1.5'}, expected a whole number"),
        (lambda s: s.positive("zero", ""), "settings={'zero': 0}, expected 1 or more"),
        (lambda s: s.number("word", ""), "settings={'word': 'x'}, expected a number"),
        (lambda s: s.number("nan", ""), "settings={'nan': 'nan'}, expected a number"),
        (lambda s: s.number("inf", ""), "settings={'inf': '-inf'}, expected a number"),
        (lambda s: s.text("word", "", among=("a", "b")), "settings={'word': 'x'}, expected one of a, b"),
    ],
)
def test_settings_that_do_not_do(ask: Callable[[Settings], object], what: str) -> None:
    with pytest.raises(FormatError) as caught:
        ask(settings(a="1.5", zero="0", word="x", nan="nan", inf="-inf"))
    assert caught.value.what == what


def test_a_setting_that_nobody_asks_for_is_refused() -> None:
    given = settings(rank="2", width="3")
    given.positive("rank", "")
    with pytest.raises(FormatError, match="settings width: this dialect has no such setting") as caught:
        given.finish()
    assert caught.value.hint == "It takes rank."
    with pytest.raises(FormatError) as caught:
        settings(width="3").finish()
    assert caught.value.hint == "It takes none."


@pytest.mark.parametrize("shapes", [[], [(3,), (4,)], [(0,)], [()], [(2, 2), (2, 2)]], ids=str)
def test_vectors_have_one_size(shapes: list[tuple[int, ...]]) -> None:
    assert same_size([np.zeros(3), np.ones(3)], WHERE) == 3
    with pytest.raises(FormatError, match=r"its vectors have the shapes .*, expected one \(u,\)"):
        same_size([np.zeros(shape) for shape in shapes], WHERE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_vector_is_any_floating_point_tensor(dtype: torch.dtype, tmp_path: Path) -> None:
    found = vector_of(pickled(torch.tensor([1.5, -2.0], dtype=dtype), tmp_path), "v", WHERE)
    assert (found.astype(float).tolist(), found.dtype.name) == ([1.5, -2.0], str(dtype).removeprefix("torch."))


def test_what_is_no_vector(tmp_path: Path) -> None:
    assert not is_tensor(np.zeros(3))
    for value, what in (
        ([1.0], "v is a list, expected a tensor"),
        (pickled(torch.zeros(2, dtype=torch.int64), tmp_path), "v is int64, expected a floating-point tensor"),
    ):
        with pytest.raises(FormatError) as caught:
            vector_of(value, "v", WHERE)
        assert caught.value.what == what
    with pytest.raises(FormatError, match="P is complex64, expected a floating-point tensor"):
        floating(np.zeros(2, np.complex64), "P", WHERE)
