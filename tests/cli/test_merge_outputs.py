"""What a merge writes beside the weights, where it may write, and what is left when it can't."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import edit, snapshot
from fixture_data import fixture

from tinylora_tools.errors import OutputError
from tinylora_tools.output.staging import check_output

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def test_output_has_the_umasks_mode_and_a_card(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    (tmp_path / "plain").touch()
    assert tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o").code == 0
    for path in (tmp_path / "o").iterdir():
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    card = (tmp_path / "o" / "README.md").read_text()
    assert "TinyLoRA" in card
    assert str(tmp_path) not in card


def test_copies_what_belongs_to_the_model(tinylora: Run, copied: Copied, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    for name in ("tokenizer.json", "chat_template.jinja", "modeling_x.py", "1_Pooling/config.json"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(name)
    for name in ("README.md", "flax_model.msgpack", ".gitattributes", "onnx/model.onnx", "pytorch_model.bin"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("no")
    blob = tmp_path / "blob"
    (base / "model.safetensors").rename(blob)  # a Hub cache holds links to shared blobs
    (base / "model.safetensors").symlink_to(blob)
    before = blob.read_bytes()
    assert tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o").code == 0
    written = {str(path.relative_to(tmp_path / "o")) for path in (tmp_path / "o").rglob("*") if path.is_file()}
    assert written == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "chat_template.jinja", "modeling_x.py", "1_Pooling/config.json",
    }  # fmt: skip
    assert (tmp_path / "o" / "README.md").read_text() != "no"
    assert not any(path.is_symlink() for path in (tmp_path / "o").rglob("*"))
    assert blob.read_bytes() == before
    assert (tmp_path / "o" / "model.safetensors").stat().st_nlink == 1


def test_no_space(copied: Copied, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("posix_fallocate", "pwrite"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            assert "no space left" in refused(adapter, base)
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100, 90, 10))
    assert "has 10 left" in refused(adapter, base)


def test_outputs_that_may_not_be_written(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    before = snapshot(tmp_path)
    (tmp_path / "file").write_text("keep me")
    for output, message in (
        (base, "the output is the input"),
        (base / "merged", "lies inside the input"),
        (adapter / "merged", "lies inside the input"),
        (tmp_path / "in", "holds the input"),
        (tmp_path / "file", "exists already"),
    ):
        result = tinylora("merge", adapter, "--base", base, "-o", output)
        assert (result.code, message in result.err) == (1, True), result
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "file", "--force")
    assert "no model's directory" in result.err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "notes", "--force")
    assert (result.code, "no model's directory" in result.err) == (1, True)
    assert {k: v for k, v in snapshot(tmp_path).items() if not k.startswith(("file", "notes"))} == before


def test_outputs_without_a_place(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    (tmp_path / "file").write_text("keep me")
    (tmp_path / ".full.tinylora-partial").write_text("keep me")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.tex").write_text("years of work")
    for name in ("linked", "linked.safetensors"):
        (tmp_path / f".{name}.tinylora-partial").symlink_to(tmp_path / "kept")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = snapshot(tmp_path)
    for name, message in (
        ("file/out", f"{tmp_path / 'file'} is in the way"),
        ("file/deep/out", "can't be written (Not a directory)"),
        ("full", ".full.tinylora-partial is in the way"),
        ("linked", ".linked.tinylora-partial is in the way"),
        ("x" * 300, "can't be written (File name too long)"),
        ("x" * 245, "can't be written (File name too long)"),
        ("loop", "is a symbolic link"),
        ("link", "is a symbolic link"),
    ):
        result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / name)
        assert (result.code, message in result.err, "  next: " in result.err) == (1, True, True), result
    result = tinylora("factor", base, "--target-modules", "q_proj", "-o", tmp_path / "linked.safetensors")
    assert (result.code, ".linked.safetensors.tinylora-partial is in the way" in result.err) == (1, True), result
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("denied", ["base/sub", "out"])
def test_an_input_is_not_taken_for_the_output(
    copied: Copied, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, denied: str
) -> None:
    adapter, base = copied("peft020-tiny")
    (base / "sub").mkdir()
    real = Path.iterdir

    def iterdir(self: Path) -> Any:
        if str(self).endswith(denied):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    if denied == "out":
        (tmp_path / "out").mkdir()
        with pytest.raises(OutputError, match=r"out: can't be written \(Permission denied\)"):
            check_output(tmp_path / "out", force=False, inputs=[])
    else:
        assert f"{base / 'sub'}: can't be used (Permission denied)" in refused(adapter, base)


def test_force_replaces_a_model_only_with_a_whole_one(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft020-tiny")
    out = tmp_path / "out"
    assert tinylora("merge", adapter, "--base", base, "-o", out).code == 0
    assert tinylora("merge", adapter, "--base", base, "-o", out).code == 1
    before = snapshot(out)
    edit(adapter / "adapter_model.safetensors", lambda t: t["base_model.tinylora_v.0"].fill(np.nan))
    assert tinylora("merge", adapter, "--base", base, "-o", out, "--force").code == 1
    assert snapshot(out) == before
    edit(adapter / "adapter_model.safetensors", lambda t: t["base_model.tinylora_v.0"].fill(0.5))
    assert tinylora("merge", adapter, "--base", base, "-o", out, "--force").code == 0
    assert snapshot(out) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_killed_run_is_cleared_by_the_next(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    partial = tmp_path / ".o.tinylora-partial"
    (partial / "whole.0").mkdir(parents=True)
    (partial / "whole.0" / "model.safetensors").write_bytes(b"half")
    (partial / "whole.0" / "leftover.bin").write_bytes(b"half")
    assert tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o").code == 0
    assert not partial.exists()
    assert not (tmp_path / "o" / "leftover.bin").exists()


def test_two_runs_do_not_mix(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft020-tiny")
    partial = tmp_path / ".o.tinylora-partial"
    partial.mkdir()
    lock = os.open(partial / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    result = tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "o")
    os.close(lock)
    assert (result.code, "another run is writing" in result.err) == (1, True)
    assert partial.exists()
