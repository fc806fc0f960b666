"""The digests that an adapter's file holds of its tensors, and what is said where they don't hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from tinylora_tools.errors import FormatError
from tinylora_tools.formats.digests import KEY, check_recorded, recorded_in, renewed
from tinylora_tools.formats.memory_file import MemoryFile
from tinylora_tools.formats.safetensors_file import SafetensorsFile, read_header
from tinylora_tools.formats.safetensors_writer import write_file

ARRAYS: dict[str, Any] = {
    "wide": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "narrow": np.arange(4).astype(ml_dtypes.bfloat16),
    "none": np.zeros((0, 3), np.float32),
    'a name, with "marks" and \u00e4': np.ones((), np.float64),
}


def written(place: Path, **changes: str) -> Path:
    path = place / "adapter_model.safetensors"
    path.unlink(missing_ok=True)
    write_file(path, ARRAYS, renewed({"format": "pt"}, ARRAYS) | changes)
    return path


def opened(path: Path) -> SafetensorsFile:
    file = read_header(path)
    return file.comparing()


def test_they_are_those_of_the_bytes_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path)
    with safe_open(path, "pt") as file:  # the reference takes it for metadata like others
        assert file.metadata().keys() == {"format", KEY}
        said = json.loads(file.metadata()[KEY])
    data, infos = path.read_bytes(), read_header(path).tensors
    assert said["version"] == 1
    assert said["tensors"] == {n: hashlib.sha256(data[i.start : i.end]).hexdigest() for n, i in infos.items()}
    file = opened(path)
    for name, array in ARRAYS.items():
        assert np.array_equal(file.read(name), array)
        assert b"".join(file.pieces(name)) == array.tobytes()


@pytest.mark.parametrize("name", ["wide", "narrow"])
@pytest.mark.parametrize("how", ["read", "pieces", "check"])
def test_every_flipped_bit_is_named(name: str, how: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    sound, info = path.read_bytes(), read_header(path).tensors[name]
    for bit in range(8 * info.nbytes):
        data = bytearray(sound)
        data[info.start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        file = opened(path)
        for other in ARRAYS.keys() - {name}:
            file.read(other)
        with pytest.raises(FormatError, match=f"{name}: its bytes aren't those that were recorded") as caught:
            if how == "read":
                file.read(name)
            elif how == "pieces":
                list(file.pieces(name))
            else:
                check_recorded(file, ARRAYS)
        assert caught.value.where == str(path)


def test_a_tensor_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, times, real = opened(written(tmp_path)), [0], hashlib.sha256

    def counted(*data: bytes) -> Any:
        times[0] += 1
        return real(*data)

    monkeypatch.setattr(hashlib, "sha256", counted)
    for _ in range(3):
        file.read("wide")
        list(file.pieces("wide"))
    assert times == [1]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", "{}", '{"version": 1}', '{"version": "1", "tensors": {}}', '{"version": 0}',
     '{"version": 1, "tensors": []}', '{"version": 1, "tensors": {"wide": 1}}', '{"version": true, "tensors": {}}',
     *(f'{{"version": 1, "tensors": {{"wide": "{digest}"}}}}' for digest in ("0" * 63, "G" * 64)), "[" * 100_000],
)  # fmt: skip
def test_an_entry_that_is_damaged(text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"its metadata's {KEY} is damaged"):
        opened(written(tmp_path, **{KEY: text}))


def test_an_entry_of_a_later_release_is_left_to_that(tmp_path: Path) -> None:
    assert opened(written(tmp_path, **{KEY: '{"version": 2, "tensors": "otherwise"}'})).digests == {}
    assert recorded_in(MemoryFile(tmp_path, ARRAYS)) == {}


def test_tensors_that_are_missing_or_new(tmp_path: Path) -> None:
    said = json.loads(renewed({}, ARRAYS)[KEY])["tensors"]
    fewer = {name: digest for name, digest in said.items() if name != "wide"}
    for tensors, what in (
        (fewer, "wide: this tensor wasn't there when"),
        ({**said, "b": "0" * 64}, "b: this tensor is missing, which was there when"),
    ):
        with pytest.raises(FormatError, match=what):
            opened(written(tmp_path, **{KEY: json.dumps({"version": 1, "tensors": tensors})}))


def test_those_of_another_file_are_replaced() -> None:
    old = renewed({"format": "pt", "note": "kept"}, {"old": np.zeros(1, np.float32)})
    new = renewed(old, ARRAYS)
    assert {key: text for key, text in new.items() if key != KEY} == {"format": "pt", "note": "kept"}
    assert json.loads(new[KEY])["tensors"].keys() == ARRAYS.keys()


def test_nothing_is_read_where_nothing_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_file(path, ARRAYS)
    file = read_header(path)
    path.unlink()
    check_recorded(file, ARRAYS)
