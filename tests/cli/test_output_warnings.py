"""What to know beside a report: on stderr behind it, in its JSON, and all that -q leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixture_data import ROOT, fixture

from tinylora_tools.cli.main import group

Run = Callable[..., Any]

#: What takes an adapter, and what takes a base; OUT gets a new name each time.
OF_ADAPTERS = {
    "inspect": [],
    "merge": ["-o", "OUT"],
    "convert lora": ["-o", "OUT"],
    "convert peft": ["-o", "OUT"],
    "convert packed": ["-o", "OUT.safetensors", "--base", "BASE"],
    "project": ["-o", "OUT"],
    "verify-base": [],
    "verify-seed": [],
}
OF_BASES = {
    "count": ["--target-modules", "q_proj"],
    "init": ["--target-modules", "q_proj", "-o", "OUT"],
    "factor": ["--target-modules", "q_proj", "-o", "OUT.safetensors"],
}
NO_P, LEAKED = fixture("peft020-seed-only"), fixture("peft019-two")

CASES = [
    *(
        pytest.param(
            [*name.split(), case.adapter, *(case.base if part == "BASE" else part for part in more)],
            warning,
            id=f"{name}: {warning}",
        )
        for name, more in OF_ADAPTERS.items()
        for case, warning in ((NO_P, "P isn't stored"), (LEAKED, "also holds factors of default"))
    ),
    *(
        pytest.param(
            [*name.split(), ROOT / "bases" / "llama-fp32", "-r", 100, *more], "reduced to 32", id=f"{name}: rank"
        )
        for name, more in OF_BASES.items()
    ),
]


@pytest.mark.parametrize(("arguments", "warning"), CASES)
def test_warnings(
    tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], warning: str
) -> None:
    monkeypatch.chdir(ROOT.parent)  # from where the adapters name their bases

    def typed(out: str) -> list[str]:
        return [
            str(tmp_path / str(part).replace("OUT", out)) if str(part)[:3] == "OUT" else str(part) for part in arguments
        ]

    as_text = CliRunner().invoke(group, typed("text"))
    report = as_text.stdout
    assert as_text.output == report + as_text.stderr  # in this order on a terminal
    warnings = [line.removeprefix("warning: ") for line in as_text.stderr.splitlines()]
    assert any(warning in line for line in warnings)
    assert len(report) > 0
    as_json = tinylora(*typed("json"), "--json")
    assert json.loads(as_json.out)["warnings"] == warnings
    assert as_json.err == as_text.stderr
    quiet = tinylora(*typed("quiet"), "-q")
    assert (quiet.out, quiet.err, quiet.code) == ("", as_text.stderr, as_text.exit_code)


def test_a_warning_cannot_steer_the_terminal(tinylora: Run, tmp_path: Path) -> None:
    """An adapter's directory is named in the notes on several."""
    case = fixture("peft020-seed-only")
    second = tmp_path / "a\x1b[2Jb"
    second.symlink_to(case.adapter)
    result = tinylora("merge", case.adapter, second, "--base", case.base, "-o", tmp_path / "o")
    assert result.code == 0
    assert "warning: a\\x1b[2Jb: P isn't stored" in result.err
    assert "\x1b" not in result.err
