"""Planned files on their way to the disk: the same bytes however they are cut and handed out, and all errors told."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import edit
from fixture_data import fixture

from tinylora_tools.core import block_sum_torch
from tinylora_tools.errors import MismatchError, OutputError
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.merge import run as module
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.merge.writing import write as merge_write


def test_bytes_do_not_depend_on_threads_blocks_or_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("peft021-13-numbers", "peft020-gpt2"):
        case = fixture(name)
        expected = None
        for threads, elements in ((1, 450_000), (2, 7), (5, 100)):
            monkeypatch.setattr(merge_write.MergeWriter.__init__, "__kwdefaults__", {"block_elements": elements})
            out = tmp_path / f"{name}-{threads}"
            merge([case.adapter], out, case.base, threads=threads)
            found = [path.read_bytes() for path in sorted(out.glob("*.safetensors"))]
            expected = expected or found
            assert found == expected
        monkeypatch.setattr(
            module,
            "adder_on",
            lambda _: lambda _, dtype: block_sum_torch.TorchBlockAdder(dtype, torch.device("cpu")),
        )
        merge([case.adapter], tmp_path / f"{name}-torch", case.base)
        assert [p.read_bytes() for p in sorted((tmp_path / f"{name}-torch").glob("*.safetensors"))] == expected
        monkeypatch.undo()


class Told:
    """Progress that adds up."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, what: str, total: int) -> None:
        self.total = total

    def advance(self, done: int) -> None:
        self.done += done

    def at(self, what: str) -> None: ...


def test_every_byte_is_told(tmp_path: Path) -> None:
    case, told = fixture("peft021-embedding"), Told()
    merge([case.adapter], tmp_path / "out", case.base, progress=told)
    file = read_header(tmp_path / "out" / "model.safetensors")
    assert told.done == told.total == file.size


def test_an_error_of_the_disk_is_told_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk may show only when what was written is sent to it, in a thread of its own."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    case = fixture("peft021-13-numbers")
    monkeypatch.setattr(merge_write, "_flush", full)
    monkeypatch.setattr(merge_write, "FLUSH_BYTES", 1)
    with pytest.raises(OutputError, match="no space left on the device; nothing was kept"):
        merge([case.adapter], tmp_path / "out", case.base)
    assert not list(tmp_path.iterdir())
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("merge", "flush"))]


def test_a_block_that_can_t_be_written_ends_it(copied: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    adapter, base = copied("peft020-gpt2")
    target = "transformer.h.1.attn.c_attn.weight"
    edit(base / "model.safetensors", lambda tensors: tensors[target].__setitem__((3, 5), np.nan))
    with pytest.raises(MismatchError, match=rf"{target}: rows 0 to \d+: the base's weights hold NaN or Inf"):
        merge([adapter], tmp_path / "out", base, threads=3)
    assert not (tmp_path / "out").exists()
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("merge", "flush"))]
