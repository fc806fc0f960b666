"""Work on weights, several at a time: each once, with its name where something is wrong, and progress told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tinylora_tools.bases.modules import Module
from tinylora_tools.bases.weights import as_matrix, over_modules, torch_threads
from tinylora_tools.errors import FormatError, MismatchError, TinyLoraError, UnsupportedError
from tinylora_tools.formats.tensors import TensorInfo

CPU = torch.device("cpu")


def module(name: str, *shape: int, kind: str = "Linear") -> Module:
    return Module(name, kind, TensorInfo(f"{name}.weight", "F32", shape, 0, 4 * int(np.prod(shape))))


#: Small ones; one of 800 MB, of which two may be in memory where four threads are; and one of 2.4 GB, that is alone.
MODULES = [
    module("a", 2, 3), module("largest", 600_000, 1000), module("large", 200_000, 1000), module("b", 4, 4),
    module("c", 1, 8),
]  # fmt: skip


@dataclass
class Told:
    """What progress was told, in order."""

    said: list[tuple[str, object]] = field(default_factory=list)

    def start(self, what: str, total: int) -> None:
        self.said.append((what, total))

    def advance(self, done: int) -> None:
        self.said.append(("advance", done))

    def at(self, what: str) -> None:
        self.said.append(("at", what))


@pytest.fixture
def four_threads() -> Iterator[None]:
    with torch_threads(4):
        yield


@pytest.mark.usefixtures("four_threads")
def test_each_module_is_worked_on_once_and_progress_is_told() -> None:
    told = Told()
    found = {
        one.name: result
        for one, result in over_modules(
            "Factoring", MODULES, lambda m: m.tensor.shape, device=CPU, progress=told, where=Path("base")
        )
    }
    assert found == {m.name: m.tensor.shape for m in MODULES}
    assert told.said[0] == ("Factoring", sum(m.tensor.nbytes for m in MODULES))
    pairs = list(zip(told.said[1::2], told.said[2::2], strict=True))
    assert sorted(pairs) == sorted((("at", m.name), ("advance", m.tensor.nbytes)) for m in MODULES)


@pytest.mark.usefixtures("four_threads")
def test_as_many_are_worked_on_side_by_side_as_memory_allows() -> None:
    """In threads of their own, which share torch's: all three small ones wait for each other here."""
    together = threading.Barrier(3)

    def work(one: Module) -> tuple[bool, int]:
        if one.name in "abc":
            together.wait(timeout=20)
        return threading.current_thread() is threading.main_thread(), torch.get_num_threads()

    run = dict(over_modules("Factoring", MODULES, work, device=CPU, progress=Told(), where=Path("base")))
    assert {one.name: result for one, result in run.items()} == {
        "a": (False, 1), "b": (False, 1), "c": (False, 1), "large": (False, 2), "largest": (True, 4)
    }  # fmt: skip
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_in_turn_they_keep_their_order() -> None:
    def work(one: Module) -> bool:
        return threading.current_thread() is threading.main_thread()

    found = over_modules(
        "Factoring", MODULES, work, device=CPU, progress=Told(), where=Path("base"), side_by_side=False
    )
    assert [(one.name, result) for one, result in found] == [(one.name, True) for one in MODULES]


def failing(error: Exception) -> Callable[[Module], None]:
    def work(one: Module) -> None:
        if one.name == "b":
            raise error

    return work


def run(error: Exception) -> None:
    list(over_modules("Factoring", MODULES, failing(error), device=CPU, progress=Told(), where=Path("base")))


def test_an_error_names_the_module_and_the_base() -> None:
    with pytest.raises(FormatError) as caught:
        run(UnsupportedError("holds NaN", hint="Train again."))
    assert (str(caught.value), caught.value.hint) == ("base: b: holds NaN", "Train again.")


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("error", [MismatchError("isn't the base's", where="adapter"), MemoryError("too large")])
def test_an_error_that_says_where_it_is_or_is_none_of_ours_stays(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run(error)
    assert caught.value is error
    assert torch.get_num_threads() == 4
    assert not isinstance(error, TinyLoraError) or str(error) == "adapter: isn't the base's"


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
    with torch_threads(None):
        assert torch.get_num_threads() == before


def test_conv1d_is_turned_and_memory_is_shared() -> None:
    stored = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    straight = as_matrix(stored, module("a", 2, 3), CPU)
    turned = as_matrix(stored, module("a", 2, 3, kind="Conv1D"), CPU)
    assert (straight.dtype, straight.tolist()) == (torch.bfloat16, [[0, 1, 2], [3, 4, 5]])
    assert turned.tolist() == [[0, 3], [1, 4], [2, 5]]
    straight[0, 1] = 7
    assert (float(stored[0, 1]), float(turned[1, 0])) == (7.0, 7.0)
