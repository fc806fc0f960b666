"""State dicts that torch.save wrote: values, names for one storage, and pickles that are never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickles import saved
from torch import Tensor

from tinylora_tools.errors import FormatError
from tinylora_tools.formats import torch_file
from tinylora_tools.formats.pickled.stored import load_pickle
from tinylora_tools.formats.torch_file import read_torch_file, torch_file_of

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32,
    torch.uint64,
]  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])  # PyTorch 1.5 and before wrote no zip archive
def test_every_dtype_comes_back_with_its_bits(tmp_path: Path, zipped: bool) -> None:
    dtypes = DTYPES if zipped else DTYPES[:11]  # the other dtypes came later
    state = {str(dtype): torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype) for dtype in dtypes}
    file = read_torch_file(saved(tmp_path / "x.bin", state, _use_new_zipfile_serialization=zipped))
    assert list(file.tensors) == list(state)
    assert not file.aliases
    for name, tensor in state.items():
        array, info = file.read(name), file.tensors[name]
        assert (info.shape, info.nbytes) == ((3, 2), 6 * tensor.element_size())
        assert array.dtype.name == name.removeprefix("torch.")
        assert array.tobytes() == tensor.view(torch.uint8).numpy().tobytes()


def test_shapes_without_order_or_entries_or_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "PIECE", 7)
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state = {"turned": x.T, "every other": x[:, ::2], "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    file = read_torch_file(saved(tmp_path / "x.bin", state))
    for name, tensor in state.items():
        assert np.array_equal(file.read(name), tensor.numpy())
        pieces = list(file.pieces(name))
        assert b"".join(pieces) == tensor.numpy().tobytes()
        assert all(len(piece) == 7 for piece in pieces[:-1])


def test_names_of_one_storage_are_told(tmp_path: Path) -> None:
    x, empty = torch.arange(6.0), torch.zeros(0)
    state = {
        "first": x, "again": x, "view": x.view(2, 3), "part": x[:3], "copy": x.clone(),
        "empty": empty, "empty again": empty,
    }  # fmt: skip
    assert read_torch_file(saved(tmp_path / "x.bin", state)).aliases == {"again": "first"}


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('this ran')",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "x.bin", {"x": torch.zeros(2), "y": Trap()}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FormatError, match="not a state dict that can be read safely") as caught:
        read_torch_file(path)
    assert caught.value.where == str(path)
    assert "\n" not in caught.value.what


@pytest.mark.parametrize("kept", [0, 1, 100, -100])
def test_damaged_files_are_told(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path / "x.bin", {"x": torch.zeros(200)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FormatError, match="not a state dict that can be read safely"):
        load_pickle(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([torch.zeros(1)], "holds a list, expected a state dict"),
        (torch.zeros(1), "holds a tensor, expected a state dict"),
        ({"a": torch.zeros(1), "b": 3}, "'b' is a int, expected a tensor"),
        ({5: torch.zeros(1)}, "has the key 5 (int), expected a tensor's name"),
        ({"a": {"b": torch.zeros(1)}}, "'a' is a dict, expected a tensor"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: Any, what: str) -> None:
    path = tmp_path / "x.bin"
    with pytest.raises(FormatError) as caught:
        torch_file_of(path, load_pickle(saved(path, content)))
    assert (caught.value.what, caught.value.where) == (what, str(path))


def test_a_trained_parameter_is_a_tensor_like_any_other(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    file = read_torch_file(saved(tmp_path / "x.bin", {"w": layer.weight, **layer.state_dict()}))
    assert file.aliases == {"weight": "w"}
    weight: Tensor = layer.weight.detach()
    assert np.array_equal(file.read("w"), weight.numpy())


def test_a_file_that_is_not_there_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "x.bin")
