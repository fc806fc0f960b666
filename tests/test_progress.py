"""Progress is told in the order of the work, and adds up to what was announced."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import foreign_projects as projects
import pytest
from fixture_data import ROOT, fixture

from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.bases.base import open_base
from tinylora_tools.bases.canonical import canonical_of, modules_of
from tinylora_tools.progress import NoProgress, Progress


@dataclass
class Sum:
    """How long each piece of work was said to be, and how much of it was told to be done."""

    pieces: list[tuple[str, int]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def start(self, what: str, total: int) -> None:
        self.pieces.append((what, total))
        self.done.append(0)

    def advance(self, done: int) -> None:
        assert done >= 0
        self.done[-1] += done

    def at(self, what: str) -> None:
        self.places.append(what)


def test_one_that_tells_nobody_has_every_verb() -> None:
    verbs = {name: method for name, method in vars(Progress).items() if inspect.isfunction(method) and name[0] != "_"}
    assert verbs.keys() == {"start", "advance", "at"}
    for name, method in verbs.items():
        assert inspect.signature(method) == inspect.signature(getattr(NoProgress, name))
    nobody: Progress = NoProgress()
    assert (nobody.start("Factoring", 10), nobody.at("a"), nobody.advance(11)) == (None, None, None)


def test_factoring_is_told_by_the_bytes_of_each_weight() -> None:
    import torch

    case, told = fixture("peft021-layers"), Sum()
    base = open_base(case.base)
    modules = modules_of(base, load_adapter(case.adapter).config, None, case.adapter)
    dtypes = {module.name: "bfloat16" for module in modules}
    canonical_of(base, modules, 2, dtypes, device=torch.device("cpu"), progress=told)
    total = sum(module.tensor.nbytes for module in modules)
    assert (told.pieces, told.done) == ([("Factoring", total)], [total])
    assert sorted(told.places) == sorted(case.modules_by_name)


@pytest.mark.parametrize("dialect", ["spuuntries", "curiouscaliboi"])
def test_a_third_party_adapter_s_import_is_told(dialect: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whether factors are computed or were stored."""
    source, base, told = tmp_path_factory.mktemp("theirs") / "source", ROOT / "bases" / "llama-fp32", Sum()
    updates = projects.PROJECTS[dialect][0](base, source)
    load_adapter(source, base, progress=told)
    total = sum(4 * update.size for update in updates.values())
    assert (told.pieces, told.done) == ([("Factoring", total)], [total])
    assert told.places == list(updates)
