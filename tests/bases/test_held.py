"""Weights that are kept in memory: read once, and only where they fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fixture_data import fixture, tensors

from tinylora_tools.bases import held
from tinylora_tools.bases.base import Base
from tinylora_tools.bases.canonical import modules_of
from tinylora_tools.bases.held import hold, memory_at_hand
from tinylora_tools.bases.modules import Module
from tinylora_tools.formats.peft.adapter import read_adapter

CASE = fixture("peft021-layers")


def targeted(base: Base) -> list[Module]:
    return modules_of(base, read_adapter(CASE.adapter).config, None, CASE.adapter)


def copied(tmp_path: Path) -> Base:
    shutil.copytree(CASE.base, tmp_path / "base")
    return Base(tmp_path / "base")


def overwrite(base: Base) -> None:
    """Zeros over the file, in place, header and all."""
    path = base.path / "model.safetensors"
    path.write_bytes(b"\0" * path.stat().st_size)


def test_what_is_held_is_read_from_memory(tmp_path: Path) -> None:
    base, before = copied(tmp_path), tensors(CASE.base)
    modules = targeted(base)
    assert hold(base, modules) == []
    overwrite(base)
    for module in modules:
        name = module.tensor.name
        assert base.checkpoint.read(name).tobytes() == before[name].tobytes()
        assert b"".join(base.checkpoint.source(name).pieces(name)) == before[name].tobytes()
    assert base.checkpoint.held.keys() == {module.tensor.name for module in modules}
    assert base.checkpoint.read("model.norm.weight").tobytes() != before["model.norm.weight"].tobytes()


def test_weights_that_do_not_fit_are_left_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly half of the memory at hand is as much as they may take; a weight of several modules counts once."""
    base = copied(tmp_path)
    modules = targeted(base)
    needed = sum(module.tensor.nbytes for module in modules)
    monkeypatch.setattr(held, "memory_at_hand", lambda: 2 * needed - 1)
    checkpoint = base.checkpoint
    assert hold(base, modules) == [
        f"the targeted weights, {needed / 1e9:.3g} GB, don't fit into half of the {(2 * needed - 1) / 1e9:.3g} GB of "
        "memory at hand: they are read three times, for their fingerprint, for the factors and for the sums"
    ]
    assert base.checkpoint is checkpoint
    monkeypatch.setattr(held, "memory_at_hand", lambda: 2 * needed)
    assert hold(base, [*modules, *modules]) == []
    assert len(base.checkpoint.held) == len(modules)


def test_a_control_group_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_CGROUP", tmp_path)
    without = memory_at_hand()
    assert without > 10_000_000  # that of the machine that this runs on
    limit, current = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text("5000000\n")
    current.write_text("2000000\n")
    assert memory_at_hand() == 3_000_000
    current.write_text("5000001\n")
    assert memory_at_hand() == 0
    limit.write_text("max\n")
    assert memory_at_hand() > 10_000_000
    limit.write_text("5000000\n")
    current.unlink()  # which half of it says can't be told
    assert memory_at_hand() > 10_000_000


@pytest.mark.parametrize("name", ["MemAvailable:", "Nothing:"])
def test_what_the_system_has_available(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Linux says; elsewhere half of the memory there is."""
    real = Path.read_text

    def read_text(path: Path, *arguments: str) -> str:
        said = f"MemTotal: 999 kB\n{name}      123456 kB\n"
        return said if path == Path("/proc/meminfo") else real(path, *arguments)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(held, "_CGROUP", tmp_path)
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 1001, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert memory_at_hand() == (123456 * 1024 if name == "MemAvailable:" else 1001 * 4096 // 2)
