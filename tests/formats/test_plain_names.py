"""Names that wrapped models leave in files, by the wrappers themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from tinylora_tools.formats.checkpoint import read_tensor_file
from tinylora_tools.formats.memory_file import MemoryFile
from tinylora_tools.formats.plain_names import plain_names, renamed

pytestmark = pytest.mark.filterwarnings("ignore")  # importing torch's compiler warns


def model() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 3)))


class Parallel(torch.nn.Module):
    """What DistributedDataParallel and DataParallel have a model as."""

    def __init__(self, inside: torch.nn.Module) -> None:
        super().__init__()
        self.module = inside


def wrapped() -> list[torch.nn.Module]:
    inner, both = model(), model()
    inner[1] = torch.compile(inner[1])  # type: ignore[call-overload]
    both[1] = checkpoint_wrapper(both[1])
    whole: torch.nn.Module = torch.compile(model())  # type: ignore[assignment]
    return [whole, inner, Parallel(model()), torch.nn.DataParallel(model()), Parallel(both), Parallel(inner)]


@pytest.mark.parametrize("number", range(6))
def test_what_wrappers_put_in_is_taken_out(number: int) -> None:
    names, plain = wrapped()[number].state_dict().keys(), model().state_dict().keys()
    found = plain_names(names)
    assert [found.get(name, name) for name in names] == list(plain)
    below = plain_names([f"base_model.model.{name}" for name in names] + ["base_model.v.0"], "base_model.model.")
    assert [below.get(f"base_model.model.{n}", f"base_model.model.{n}") for n in names] == [
        f"base_model.model.{name}" for name in plain
    ]


def test_plain_names_stay() -> None:
    assert plain_names(model().state_dict()) == {}
    assert plain_names(["module.a", "module.b", "head"]) == {}  # where it is a module of the model
    assert plain_names(["a._orig_mod.b", "a.b"]) == {}  # which is another tensor
    assert plain_names(["_orig_mod.a.b", "a._orig_mod.b"]) == {}
    assert plain_names(["_orig_mod"]) == {}
    assert plain_names([]) == {}


@pytest.mark.parametrize("form", ["safetensors", "bin", "memory"])
def test_a_file_s_tensors_under_other_names(form: str, tmp_path: Path) -> None:
    state = torch.compile(model()).state_dict()
    path = tmp_path / f"x.{form}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({**state, "_orig_mod.tied": state["_orig_mod.0.weight"]}, path)
    file = read_tensor_file(path)
    file = MemoryFile.of(file) if form == "memory" else file
    names = plain_names(file.tensors)
    found = renamed(file, names)
    assert set(found.tensors) == set(names.values())
    assert all(info.name == name for name, info in found.tensors.items())
    for name, plain in names.items():
        assert np.array_equal(found.read(plain), file.read(name))
        assert b"".join(found.pieces(plain)) == b"".join(file.pieces(name))
    assert getattr(found, "aliases", {"tied": "0.weight"}) == {"tied": "0.weight"}
    assert renamed(found, names) is found
