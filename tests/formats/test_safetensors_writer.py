"""New files against safetensors' own reader, and its writer's bytes; disks that are full."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save

from tinylora_tools.formats.safetensors_file import build_header
from tinylora_tools.formats.safetensors_writer import SafetensorsWriter, write_all, write_file, write_tensors

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_]
NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)), max_size=5),
    st.dictionaries(NAMES, st.text(max_size=5), max_size=3),
)
def test_the_reference_reads_what_is_written(tmp_path: Path, wanted: Any, metadata: dict[str, str]) -> None:
    path, rng = tmp_path / "x.safetensors", np.random.default_rng(0)
    path.unlink(missing_ok=True)
    tensors = {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, (dtype, shape) in wanted.items()}
    assert write_file(path, tensors, metadata) == path.stat().st_size
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    with safe_open(path, "np") as file:
        assert (file.metadata() or {}) == metadata


def test_in_the_reference_s_order_the_bytes_are_its_own(tmp_path: Path) -> None:
    """It puts wider dtypes first, then goes by names."""
    tensors = {
        "b": np.arange(3, dtype=np.float64),
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "é": np.array(2.0, np.float32),
        "c": np.arange(5, dtype=np.float16),
    }
    write_file(tmp_path / "x.safetensors", tensors, {"format": "pt"})
    assert (tmp_path / "x.safetensors").read_bytes() == save(tensors, {"format": "pt"})


def test_values_come_in_any_order_and_from_any_layout(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.arange(8, dtype=np.int16)[::2], "c": np.zeros((0, 2))}
    entries = [("a", "F64", (3, 2)), ("b", "I16", (4,)), ("c", "F64", (0, 2))]
    write_tensors(tmp_path / "x.safetensors", entries, reversed(tensors.items()))
    for name, array in load_file(tmp_path / "x.safetensors").items():
        assert np.array_equal(array, tensors[name])


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    tensors = {str(i): np.full(5000, i, np.int32) for i in range(40)}
    header, places = build_header([(name, "I32", (5000,)) for name in tensors])
    with SafetensorsWriter(tmp_path / "x.safetensors", header, places) as file, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: file.write(name, tensors[name]), tensors))
    found = load_file(tmp_path / "x.safetensors")
    assert all(np.array_equal(found[name], array) for name, array in tensors.items())


@pytest.mark.parametrize("array", [np.zeros(3, np.float16), np.zeros((1, 3), np.float32), np.zeros(4, np.float32)])
def test_an_array_that_the_header_does_not_say_is_refused(tmp_path: Path, array: Any) -> None:
    with pytest.raises(ValueError, match=r"^a is float\d\d .*, the header says TensorInfo"):
        write_tensors(tmp_path / "x.safetensors", [("a", "F32", (3,))], [("a", array)])


def test_a_tensor_that_never_comes_is_missed(tmp_path: Path) -> None:
    entries = [("a", "F32", (1,)), ("c", "F32", (1,)), ("b", "F32", (1,))]
    with pytest.raises(ValueError, match="no values came for b"):
        write_tensors(tmp_path / "x.safetensors", entries, [("a", np.zeros(1, np.float32))])


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "x.safetensors", {"a": np.zeros(3)})
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"


def open_files() -> int:
    """How many this process has open, where the system tells."""
    return len(list(Path("/proc/self/fd").glob("*")))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_shows_before_anything_is_computed(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(code, os.strerror(code))

    def values() -> Any:
        pytest.fail("a value was asked for")
        yield

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = open_files()
    with pytest.raises(OSError, match=os.strerror(code)):
        write_tensors(tmp_path / "x.safetensors", [("a", "F64", (3,))], values())
    assert open_files() == before


def test_file_systems_that_cannot_reserve_are_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    write_file(tmp_path / "x.safetensors", {"a": np.arange(3.0)})
    assert load_file(tmp_path / "x.safetensors")["a"].tolist() == [0, 1, 2]


def test_what_the_system_writes_in_parts_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda target, data, start: pwrite(target, data[:3], start))
    with (tmp_path / "x").open("wb") as file:
        write_all(file.fileno(), memoryview(np.arange(5, dtype=np.int32)), 2)
    assert (tmp_path / "x").read_bytes() == b"\0\0" + np.arange(5, dtype=np.int32).tobytes()


def test_big_endian_arrays_are_turned_round(tmp_path: Path) -> None:
    write_file(tmp_path / "x.safetensors", {"a": np.arange(3, dtype=">f4")})
    assert load_file(tmp_path / "x.safetensors")["a"].tolist() == [0.0, 1.0, 2.0]
