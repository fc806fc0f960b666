"""What a merge shares with its base on file systems that can: XFS and Btrfs, made in files where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fixture_data import fixture
from safetensors.torch import load_file, save_file

from tinylora_tools import OutputError, UnsupportedError, merge, verify_output
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.formats.tensors import TensorInfo
from tinylora_tools.ops.merge.layout import with_blocks_alike
from tinylora_tools.ops.merge.words import Outcome, OutputFile, Source
from tinylora_tools.output import file_copy

CASE = fixture("peft021-layers")

MAKE = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}


@pytest.fixture(params=MAKE)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty file system of that kind."""
    make = MAKE[request.param]
    if os.geteuid() != 0 or shutil.which(make[0]) is None:
        pytest.skip(f"only the superuser, with {make[0]}, can make a file system")
    image, mounted = tmp_path / "image", tmp_path / "disk"
    mounted.mkdir()
    image.touch()
    os.truncate(image, 400 << 20)
    subprocess.run([*make, image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, mounted], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def used(disk: Path) -> int:
    os.sync()
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_what_does_not_change_takes_no_space(dtype: str, disk: Path, tmp_path: Path) -> None:
    """And the tensors are those of a merge elsewhere; so is the file, where its header needn't be longer."""
    base = disk / "base"
    shutil.copytree(CASE.base, base)
    tensors = load_file(base / "model.safetensors")
    large = torch.from_numpy(np.random.default_rng(0).integers(0, 1 << 30, 2_500_000, np.int32))
    save_file({**tensors, "large": large}, base / "model.safetensors", metadata={"format": "pt"})
    merge(CASE.adapter, tmp_path / "elsewhere", base, dtype=dtype)
    before = used(disk)
    merge(CASE.adapter, disk / "merged", base, dtype=dtype, inplace_copy="reflink", manifest=True)
    assert used(disk) - before < 2_000_000
    shared, copied = disk / "merged" / "model.safetensors", tmp_path / "elsewhere" / "model.safetensors"
    found, wanted = read_header(shared), read_header(copied)
    assert list(found.tensors) == list(wanted.tensors)
    assert all(found.read(name).tobytes() == wanted.read(name).tobytes() for name in wanted.tensors)
    assert (shared.read_bytes() == copied.read_bytes()) is (dtype == "auto")
    again = verify_output(disk / "merged", CASE.adapter, base=base)
    assert (again.differences, again.recomputed > 0) == ([], True)
    stored = read_header(base / "model.safetensors").tensors["large"]
    assert (found.tensors["large"].start - stored.start) % file_copy.BLOCK == 0


def test_elsewhere_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_copy, "BLOCK", 64)  # of which small tensors have some whole
    monkeypatch.setattr(file_copy, "_shared", lambda *_: False)
    with pytest.raises(OutputError, match="can't have the base and the merged model share their bytes") as caught:
        merge(CASE.adapter, tmp_path / "merged", CASE.base, inplace_copy="reflink")
    assert "if it is XFS or Btrfs; or leave inplace_copy out." in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnsupportedError, match="nothing on this machine to share bytes with"):
        merge(CASE.adapter, tmp_path / "merged", CASE.base, inplace_copy="reflink", stream_base=True)


def test_a_header_is_as_long_as_most_bytes_want_it(tmp_path: Path) -> None:
    file = Source(read_header(CASE.base / "model.safetensors"), TensorInfo("x", "U8", (1,), 1, 2)).file

    def copied(name: str, size: int, here: int, there: int) -> tuple[TensorInfo, Outcome]:
        source = Source(file, TensorInfo(name, "U8", (size,), there, there + size))
        return TensorInfo(name, "U8", (size,), here, here + size), Outcome(source)

    header = (92).to_bytes(8, "little") + b"{}" + b" " * 90
    tensors = (copied("a", 5000, 100, 300), copied("b", 9000, 5100, 4906), copied("c", 2, 14100, 4097))
    found = with_blocks_alike(OutputFile("x", header, tensors))
    further = (4906 - 5100) % 4096
    assert [info.start for info, _ in found.tensors] == [100 + further, 5100 + further, 14100 + further]
    assert (len(found.header), found.header[8:].rstrip()) == (100 + further, b"{}")
    assert int.from_bytes(found.header[:8], "little") == len(found.header) - 8
    assert with_blocks_alike(OutputFile("x", header, ())).header == header
