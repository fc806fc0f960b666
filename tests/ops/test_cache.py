"""What is kept, counted and removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinylora_tools.bases.kept_factors import LIMIT, VARIABLE
from tinylora_tools.ops.cache import CacheReport, cache


def test_it_counts_and_removes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    assert cache(clear=True) == CacheReport(str(tmp_path / "kept"), 0, 0, LIMIT, True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "ab.npz").write_bytes(b"12345")
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    assert cache() == CacheReport(str(tmp_path / "kept"), 1, 5, LIMIT, False)
    assert cache(clear=True) == CacheReport(str(tmp_path / "kept"), 1, 5, LIMIT, True)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    monkeypatch.setenv(VARIABLE, "")
    assert cache() == CacheReport(None, 0, 0, LIMIT, False)
