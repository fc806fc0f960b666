"""Completion in the shells themselves: commands, options, choices, and files."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import ROOT

from tinylora_tools.cli.about.completion import SCRIPTS

Run = Callable[..., Any]

#: How a shell starts without anybody's settings, and what it is asked at first.
SHELLS = {
    "bash": (["bash", "--noprofile", "--norc", "-i"], "bind 'set enable-bracketed-paste off'; PS1='> '"),
    "zsh": (["zsh", "-f", "-i"], "PS1='> '; unsetopt zle_bracketed_paste; autoload -Uz compinit; compinit -D -u"),
}

#: What is typed before a tab, and what the line is then.
LINES = {
    "commands": ("tinylora insp", "tinylora inspect "),
    "forms": ("tinylora convert pac", "tinylora convert packed "),
    "help": ("tinylora help arch", "tinylora help architecture "),
    "options": ("tinylora merge --man", "tinylora merge --manifest "),
    "choices": ("tinylora merge x --tied sh", "tinylora merge x --tied share "),
    "choices after =": ("tinylora merge x --tied=sh", "tinylora merge x --tied=share "),
    "a source": ("tinylora inspect adap", "tinylora inspect adapter.safetensors "),
    "several": ("tinylora merge first adap", "tinylora merge first adapter.safetensors "),
    "a base": ("tinylora merge x --base mod", "tinylora merge x --base models/"),
    "a base after =": ("tinylora merge x --base=mod", "tinylora merge x --base=models/"),
    "in a directory": ("tinylora count models/Qw", "tinylora count models/Qwen/"),
    "an output": ("tinylora merge x -o mod", "tinylora merge x -o models/"),
    "--module-order": ("tinylora inspect x --module-order ord", "tinylora inspect x --module-order order.txt "),
    "--golden": ("tinylora verify-seed --golden gol", "tinylora verify-seed --golden golden.json "),
    "--against": ("tinylora verify-seed x --against mod", "tinylora verify-seed x --against models/"),
    "--projection": ("tinylora convert lora x --projection P.s", "tinylora convert lora x --projection P.safetensors "),
    "--save": ("tinylora inspect x --save pic", "tinylora inspect x --save picture.svg "),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with files to complete, and beside it this tree's `tinylora`."""
    top = tmp_path_factory.mktemp("completion")
    (top / "bin").mkdir()
    program = top / "bin" / "tinylora"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT.parent} exec {sys.executable} -m tinylora_tools "$@"\n')
    program.chmod(0o755)
    here = top / "here"
    (here / "models" / "Qwen").mkdir(parents=True)
    for name in ("adapter.safetensors", "order.txt", "golden.json", "P.safetensors", "picture.svg"):
        (here / name).touch()
    return here


def environment(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    path = f"{place.parent / 'bin'}:{os.environ['PATH']}"
    return kept | {"PATH": path, "HOME": str(place.parent), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, name: str, place: Path) -> None:
        if shutil.which(name) is None:
            pytest.skip(f"there is no {name}")
        words, first = SHELLS[name]
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.chdir(place)
            os.execvpe(words[0], words, environment(place))  # noqa: S606
        self.send(f"stty -echo; {first}; eval \"$(tinylora completion {name})\"; stty echo; echo re''ady\n")
        self.until("ready")

    def send(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def until(self, text: str, seconds: float = 60.0) -> str:
        """What is shown, once it holds a text."""
        shown, deadline = "", time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.1)[0]:
                shown += os.read(self.terminal, 4096).decode(errors="replace")
                if text in plain(shown):
                    return shown
        raise AssertionError(f"{text!r} isn't in {plain(shown)!r}")

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


def plain(shown: str) -> str:
    """What a person reads: without escapes, and a line that was drawn anew as it was last."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07", "", shown)
    while "\x08" in text:
        text = re.sub(r"[^\x08]\x08|^\x08", "", text, count=1)
    return text


@pytest.mark.parametrize("name", SHELLS)
def test_completion_in_a_shell(name: str, place: Path) -> None:
    shell = Shell(name, place)
    try:
        for typed, completed in LINES.values():
            shell.send(typed + "\t")
            shell.until(completed[len(typed) :].rstrip())
            shell.send("\x01\x0becho cle''ared\n")  # from the line's beginning, all of it
            shell.until("cleared")
    finally:
        shell.close()


def test_completion_in_fish(place: Path) -> None:
    """Fish says itself what it would complete a line to."""
    if shutil.which("fish") is None:
        pytest.skip("there is no fish")
    asked = "\n".join(f"complete -C '{typed}'; echo" for typed, _ in LINES.values())
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"tinylora completion fish | source\n{asked}"],
        capture_output=True, text=True, check=False, cwd=place, env=environment(place),
    )  # fmt: skip
    answers = [answer.splitlines() for answer in done.stdout.split("\n\n")]
    for (typed, completed), answer in zip(LINES.values(), answers, strict=False):
        assert [line.partition("\t")[0] for line in answer] == [completed.split()[-1]], (typed, done.stdout)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_printed_alone(tinylora: Run, name: str) -> None:
    result = tinylora("completion", name)
    assert (result.code, result.err) == (0, "")
    assert "_TINYLORA_COMPLETE" in result.out
    assert tinylora("completion", "tcsh").code == 2


def test_the_lines_that_turn_it_on_are_documented(tinylora: Run) -> None:
    text = tinylora("completion", "--help").out
    for line in ('eval "$(tinylora completion bash)"', 'eval "$(tinylora completion zsh)"', "completion fish | source"):
        assert line in text
        assert line in (ROOT.parent / "README.md").read_text()
