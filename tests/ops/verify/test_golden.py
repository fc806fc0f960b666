"""Golden files: recorded on one machine, checked on another."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture
from torch_streams import remembering

from tinylora_tools.errors import FormatError, TinyLoraError
from tinylora_tools.ops.verify import machine
from tinylora_tools.ops.verify.check import Check
from tinylora_tools.ops.verify.golden import compare, record
from tinylora_tools.ops.verify.seed import verify_seed

on_x86_linux = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="the named streams are those of x86-64 Linux"
)


@on_x86_linux
def test_golden_files_between_machines(tmp_path: Path, tinylora: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded with AVX2, checked without: the difference is reported as what it is."""
    monkeypatch.setattr(machine, "_drawn_by_torch", remembering())

    def run(*arguments: object, capability: str) -> Any:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
        return tinylora("verify-seed", "--device", "cpu", *arguments)

    golden = tmp_path / "golden.json"
    here = run("--record", golden, "--json", capability="avx2")
    checks = json.loads(here.out)["checks"]
    assert (here.code, {check["device"] for check in checks}) == (0, {"cpu"}), here
    names = {check["name"] for check in checks}
    assert {"numpy torch-cpu-avx2", "numpy torch-cpu-scalar", "torch", "torch default, 1 thread"} <= names
    assert run("--golden", golden, capability="avx2").code == 0
    other = run("--golden", golden, "--json", capability="default")
    assert other.code == 1
    report = json.loads(other.out)
    assert report["ok"] is False
    wrong = [check for check in report["checks"] if not check["ok"]]
    assert [check["name"] for check in wrong] == ["golden: torch"]
    assert "recorded torch-cpu-avx2, here torch-cpu-scalar" in wrong[0]["note"]
    content = json.loads(golden.read_text())
    golden.write_text(json.dumps({**content, "version": 2}))
    refused = run("--golden", golden, capability="avx2")
    assert (refused.code, "of version 2, expected" in refused.err) == (1, True)
    assert "Traceback" not in refused.err


def test_golden_files_of_adapters(tmp_path: Path) -> None:
    case, golden = fixture("peft021-scalar"), tmp_path / "golden.json"
    verify_seed(case.adapter, record_to=golden)
    assert verify_seed(case.adapter, golden=golden).ok
    assert not verify_seed(fixture("peft021-bias-all").adapter, golden=golden).ok
    with pytest.raises(TinyLoraError, match="exists already"):
        verify_seed(case.adapter, record_to=golden)
    golden.write_text("[]")
    with pytest.raises(FormatError):
        verify_seed(case.adapter, golden=golden)


def check(name: str, digest: str | None, note: str = "", stream: str | None = None) -> Check:
    return Check(name, "cpu", stream, True, None, None, None, note, digest)


def test_digests_are_compared_by_name(tmp_path: Path) -> None:
    """Those of both machines; a stored P has one for each stream."""
    record(
        [check("a", "1", "there"), check("b", "2"), check("stored P", "3", stream="x"), check("none", None)],
        tmp_path / "golden.json",
        force=False,
    )
    here = [check("a", "9"), check("c", "2"), check("stored P", "3", stream="x"), check("stored P", "4", stream="y")]
    found = compare(here, tmp_path / "golden.json")
    assert [(one.name, one.ok, one.note) for one in found] == [
        ("golden: a", False, "recorded 1, here 9 (recorded with there)"),
        ("golden: stored P, x", True, "as recorded"),
    ]
    with pytest.raises(FormatError, match="none of its digests is of a check that ran here"):
        compare([check("c", "2")], tmp_path / "golden.json")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"digests": {"torch": 3}}, "digests"),
        ({"digests": {"torch": ["a"]}}, "digests"),
        ({"digests": []}, "digests"),
        ({"digests": None}, "digests"),
        ({"notes": {"torch": 3}}, "notes"),
        ({"notes": [1]}, "notes"),
    ],
)
def test_golden_files_of_something_else(change: dict[str, Any], field: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    content = {"format": "tinylora-golden", "version": 1, "digests": {"torch": "0" * 64}, **change}
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=f"its {field} aren't a map from names to texts"):
        compare([], path)
