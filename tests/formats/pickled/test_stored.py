"""What torch wrote, as torch reads it; and what no torch.save writes, refused before it costs anything."""

from __future__ import annotations

import io
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickles import saved

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.pickled.stored import StoredTensor, load_pickle


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, StoredTensor)
        array = found.read()
        bits = expected.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return array.shape == tuple(expected.shape) and array.tobytes() == bits
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected) and type(found) is type(expected)


LAYER = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
X = torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        LAYER.state_dict(),
        dict(LAYER.named_parameters()),
        {"whole": X, "turned": X.mT, "part": X[1:, :, 1::2], "none": X[:0], "scalar": X[0, 0, 0], "again": X},
        [X, {"deep": (X[0], 5, None, "text", 2.5, True)}],
        torch.tensor([True, False]),
        {"step": 3, "groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}], "size": X.shape},
    ],
    ids=["state dict", "parameters", "views", "nested", "alone", "values"],
)
def test_it_is_what_torch_reads(content: Any, zipped: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=zipped)
    assert same(load_pickle(path), torch.load(path, weights_only=True))


def test_torch_is_not_needed(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.bin", LAYER.state_dict())
    code = (
        "import sys; from tinylora_tools.formats.torch_file import read_torch_file; from pathlib import Path\n"
        f"file = read_torch_file(Path({str(path)!r})); [file.read(name) for name in file.tensors]\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def with_entries(
    path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> Path:
    """The same archive with other entries."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in entries.items():
            if (changed := change(name, data)) is not None:
                new.writestr(name, changed)
    return path


def test_an_archive_may_have_been_packed_by_another(tmp_path: Path) -> None:
    content = {"a": X}
    path = with_entries(saved(tmp_path / "x.pt", content), lambda _, data: data)
    assert same(load_pickle(path), content)


def refused(path: Path) -> str:
    """Why a file is refused: never with torch's own advice to run what is in it."""
    with pytest.raises(FormatError, match="not a state dict that can be read safely") as caught:
        load_pickle(path)
    assert caught.value.where == str(path)
    assert "weights_only" not in str(caught.value)
    assert caught.value.hint is not None
    return caught.value.what


def test_a_small_archive_does_not_become_large(tmp_path: Path) -> None:
    """300 MB of zeros in 300 kB: torch writes no such file, and it is refused before it is unpacked."""
    path = saved(tmp_path / "x.pt", {"a": torch.zeros(1)})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("x/data/1", "w") as entry:
        for _ in range(30):
            entry.write(bytes(10_000_000))
    assert path.stat().st_size < 500_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "x/data/1 is compressed or encrypted" in refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (torch.zeros(1).expand(200_000, 200_000), "repeats the 1 numbers of its storage as 40,000,000,000"),
        (torch.zeros(2, dtype=torch.complex64).conj(), r"changed as it is read (conj)"),
        (torch.zeros(2, dtype=torch.complex64).conj().imag, r"changed as it is read (neg)"),
        (torch.zeros(1, dtype=torch.complex128), "a torch.ComplexDoubleStorage isn't supported"),
        (torch.eye(2).to_sparse(), "would have to run torch.serialization._get_layout"),
        (torch.zeros(2, device="meta"), "would have to run torch._utils._rebuild_meta_tensor_no_storage"),
        (torch.zeros(2, dtype=torch.uint16).view(torch.uint16)[:1], None),
    ],
    ids=["expanded", "conj", "neg", "complex128", "sparse", "meta", "a part"],
)
def test_tensors_that_are_no_plain_ones(content: Any, what: str | None, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": content})
    if what is None:
        assert same(load_pickle(path), {"a": content})
    else:
        assert what in refused(path)


def edited(name: str, old: bytes, new: bytes) -> Callable[[str, bytes], bytes | None]:
    return lambda entry, data: data.replace(old, new) if entry.endswith(name) else data


CHANGES: dict[str, tuple[Callable[[str, bytes], bytes | None], str]] = {
    "another order": (edited("byteorder", b"little", b"big"), "little-endian"),
    "a long order": (edited("byteorder", b"little", b"little" * 1000), "little-endian"),
    "no storage": (lambda name, data: None if name.endswith("data/0") else data, "missing or cut short"),
    "a short storage": (lambda name, data: data[:-1] if name.endswith("data/0") else data, "missing or cut short"),
    "no pickle": (lambda name, data: None if name.endswith("data.pkl") else data, "holds 0 pickles"),
    "an empty pickle": (lambda name, data: b"" if name.endswith("data.pkl") else data, "damaged"),
    "a pickle of code": (
        lambda name, data: pickle.dumps(print, 2) if name.endswith("data.pkl") else data,
        "",
    ),
    "a shape too large": (edited("data.pkl", b"K\x02K\x03K\x04\x87", b"K\x03K\x03K\x04\x87"), "repeats the 24"),
    "an offset too large": (edited("data.pkl", b"QK\x00K\x02", b"QK\x01K\x02"), "reaches past"),
    "another kind": (edited("data.pkl", b"FloatStorage", b"FloatStorago"), "isn't supported"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_archives_that_say_something_else(change: str, tmp_path: Path) -> None:
    path = with_entries(saved(tmp_path / "x.pt", {"a": X}), CHANGES[change][0])
    if change == "a pickle of code":
        assert str(load_pickle(path)) in ("builtins.print", "__builtin__.print")  # a name, and nothing else
    else:
        assert CHANGES[change][1] in refused(path)


def test_two_pickles_are_one_too_many(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": X})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y/data.pkl", b"N.")
    assert "holds 2 pickles" in refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_cut_and_every_flipped_byte_is_told_or_harmless(zipped: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": X[0], "b": X[1:]}, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]):
            path.write_bytes(data)
            try:
                content = load_pickle(path)
            except FormatError:
                continue
            for value in content.values() if isinstance(content, dict) else ():
                if isinstance(value, StoredTensor):
                    assert value.read().nbytes <= len(whole)


def test_a_file_that_shrinks_while_it_is_used(tmp_path: Path) -> None:
    """An error, where a file that is mapped into memory would end the process (SIGBUS)."""
    path = saved(tmp_path / "x.pt", {"a": torch.zeros(1_000_000)})
    found = load_pickle(path)["a"]
    os.truncate(path, 100_000)
    with pytest.raises(FormatError, match="the file ended early"):
        found.read()


def test_pickles_of_before_pytorch_1_6(tmp_path: Path) -> None:
    """The storages of the list that stands between, in its order."""
    path = saved(tmp_path / "x.pt", {"a": X, "b": torch.ones(3)}, _use_new_zipfile_serialization=False)
    found = load_pickle(path)
    assert np.array_equal(found["b"].read(), np.ones(3))
    whole = path.read_bytes()
    file = io.BytesIO(whole)
    for _ in range(2):
        pickle.load(file)
    path.write_bytes(whole[file.tell() :])
    assert "begins as no file of torch.save's does" in refused(path)
    path.write_bytes(whole.replace(b"little_endian", b"brittle_endia"))
    assert "begins as no file of torch.save's does" in refused(path)
