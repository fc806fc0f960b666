"""What a terminal and a shell see of any command: help, exit codes, interrupts, errors as JSON, and what it imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixture_data import ROOT, fixture

from tinylora_tools import merge
from tinylora_tools.cli.convert import FORMS
from tinylora_tools.cli.main import COMMANDS, group

Run = Callable[..., Any]

EVERY = [*(name for name in COMMANDS if name != "convert"), *(f"convert {form}" for form in FORMS)]

#: The shortest whole command line of each.
LINES = {
    "architecture": ["SOURCE"],
    "inspect": ["SOURCE"],
    "merge": ["SOURCE", "-o", "OUT"],
    "factor": ["SOURCE", "-o", "OUT.safetensors"],
    "count": ["SOURCE"],
    "init": ["SOURCE", "-o", "OUT"],
    "verify-base": ["SOURCE"],
    "project": ["SOURCE", "-o", "OUT"],
    "push": ["SOURCE", "owner/name"],
    "diff": ["SOURCE", "SOURCE"],
    "verify-output": ["SOURCE"],
    "verify-seed": ["SOURCE"],
    "convert gguf": ["SOURCE", "-o", "OUT"],
    "convert lora": ["SOURCE", "-o", "OUT"],
    "convert peft": ["SOURCE", "-o", "OUT"],
    "convert packed": ["SOURCE", "-o", "OUT.safetensors", "--base", "SOURCE"],
}


@pytest.mark.parametrize("name", [*COMMANDS, *(f"convert {form}" for form in FORMS)])
def test_help_is_whole(name: str) -> None:
    result = CliRunner().invoke(group, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert name == "convert" or ("--json" in result.output and "--quiet" in result.output)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["merge", "--help"],
        ["inspect", "ADAPTER"],
        ["inspect", "BASE"],
        ["merge", "ADAPTER", "-o", "OUT"],
        ["count", "BASE", "--budget", "13"],
    ],
    ids=" ".join,
)
def test_torch_is_not_imported(arguments: list[str], tmp_path: Path) -> None:
    places = {
        "ADAPTER": ROOT / "peft021-13-numbers" / "adapter",
        "BASE": ROOT / "bases" / "qwen2-bf16",
        "OUT": tmp_path / "o",
    }
    kept_out = {"torch", "transformers"} | (
        set() if arguments[0] == "merge" and "OUT" in arguments else {"huggingface_hub"}
    )
    code = (
        "import sys, atexit; from tinylora_tools.cli import main\n"
        f"atexit.register(lambda: print(sorted({kept_out} & set(sys.modules))))\n"
        "main()"
    )
    command = [sys.executable, "-c", code, *(str(places.get(part, part)) for part in arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.splitlines()[-1] == "[]"


def test_wrong_usage_is_2(tinylora: Run) -> None:
    assert tinylora("merge").code == 2
    assert tinylora("nothing").code == 2
    adapter = fixture("peft020-tiny").adapter
    assert tinylora("merge", adapter, "-o", "x", "--scale", "1", "--scale", "2").code == 2
    assert tinylora("merge", adapter, "-o", "x", "--dtype", "int8").code == 2


def heeding_signals() -> None:
    """A test run in the background, or under nohup, ignores some."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupts_leave_nothing(tmp_path: Path, kind: signal.Signals, code: int, threads: int) -> None:
    """Killed in the middle of writing: its exit code, and nothing under the output's name or beside it."""
    case = fixture("peft020-tiny")
    slow = (
        "import time, sys; from tinylora_tools.cli import main\n"
        "from tinylora_tools.ops.merge.writing import write as w\n"
        "real = w.TensorJob.run\n"
        "def slow(self, *a):\n    time.sleep(0.2); return real(self, *a)\n"
        "w.TensorJob.run = slow; sys.argv[0] = 'tinylora'; main()"
    )
    command = [
        sys.executable,
        "-c",
        slow,
        "merge",
        case.adapter,
        "--base",
        case.base,
        "-o",
        tmp_path / "o",
        "--threads",
        threads,
    ]
    process = subprocess.Popen(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        preexec_fn=heeding_signals,
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".o.tinylora-partial/whole.*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(kind)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_of_the_imports_is_quiet() -> None:
    interrupt = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt()); import tinylora_tools.cli"
    )
    done = subprocess.run([sys.executable, "-c", interrupt], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("place", ["keep_standard_streams", "end_on_signals", "print_lines"])
def test_an_interrupt_before_anything_begins_or_while_one_is_said_is_quiet(
    place: str, tinylora: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinylora_tools.ops.inspect.run.inspect", interrupted)
    monkeypatch.setattr(sys.modules["tinylora_tools.cli.main"], place, interrupted)
    result = tinylora("inspect", fixture("peft021-13-numbers").adapter)
    assert (result.code, result.err.strip()) == (130, "")  # click ends the line in which ^C stands


@pytest.mark.parametrize("name", EVERY)
def test_what_is_wrong_as_json(tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On stdout for who reads JSON, and on stderr as it is without; `where` is the path as it was typed."""
    monkeypatch.chdir(tmp_path)
    arguments = [*name.split(), *("nowhere" if part == "SOURCE" else part for part in LINES[name])]
    said = {"message": "no such file or directory", "where": "nowhere", "hint": "Check the spelling."}
    as_json, as_text = tinylora(*arguments, "--json"), tinylora(*arguments)
    assert (as_json.code, json.loads(as_json.out)) == (1, {"error": said})
    text = "error: nowhere: no such file or directory\n  next: Check the spelling.\n"
    assert as_json.err == text
    assert (as_text.code, as_text.out, as_text.err) == (1, "", text)


@pytest.mark.parametrize("name", EVERY)
def test_what_the_system_says_as_json(tinylora: Run, name: str) -> None:
    long = "x" * 300
    result = tinylora(*name.split(), *(long if part == "SOURCE" else part for part in LINES[name]), "--json")
    said = {
        "message": "can't be used (File name too long)",
        "where": long,
        "hint": "Check that the path is right and that you have access to it.",
    }
    assert (result.code, json.loads(result.out)) == (1, {"error": said})
    assert result.err.startswith(f"error: {long}: can't be used")


@pytest.mark.parametrize("name", EVERY)
def test_wrong_usage_as_json(tinylora: Run, name: str) -> None:
    result = tinylora(*name.split(), *LINES[name], "--json", "--nonsense")
    error = json.loads(result.out)["error"]
    for other in (("--format", "json"), ("--format=json",)):
        assert tinylora(*name.split(), *LINES[name], *other, "--nonsense").out == result.out
    assert (result.code, error.pop("where"), error.pop("hint")) == (2, None, None)
    assert "--nonsense" in error.pop("message")
    assert error == {}
    usage, *_, complaint = result.err.splitlines()
    assert f"tinylora {name} [OPTIONS]" in usage
    assert "--nonsense" in complaint


def test_commands_that_there_are_not(tinylora: Run) -> None:
    for arguments in (("nothing", "--json"), ("convert", "onnx", "--json")):
        result = tinylora(*arguments)
        assert (result.code, json.loads(result.out)["error"]["message"]) == (2, f"No such command '{arguments[-2]}'.")


def test_the_version_is_the_packages(tinylora: Run) -> None:
    assert tinylora("--version").out == f"tinylora {version('tinylora-tools')}\n"


@pytest.mark.parametrize("name", EVERY)
def test_a_pipe_is_no_source(tinylora: Run, name: str, tmp_path: Path) -> None:
    """And nobody waits for who might write to it."""
    os.mkfifo(tmp_path / "pipe")
    result = tinylora(*name.split(), *(tmp_path / "pipe" if part == "SOURCE" else part for part in LINES[name]))
    assert (result.code, "is neither a file nor a directory, but a pipe" in result.err) == (1, True), result


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are kept by Linux")
@pytest.mark.parametrize("megabytes", [150, 300, 600])
def test_too_little_memory_is_a_message(megabytes: int) -> None:
    """Wherever it shows: as libraries are loaded, or later."""
    case = fixture("peft021-13-numbers")
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes << 20},) * 2)\n"
    code = limited + "from tinylora_tools.cli import main; main()"
    command = [sys.executable, "-c", code, "verify-base", case.adapter, "--base", case.base]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "error: there isn't enough memory" in done.stderr or "OpenBLAS error: Memory" in done.stderr


#: As a user who has no other process where it may be changed, for whom the limit is none for root.
_AS_ANOTHER = """
import os, resource, sys
if os.getuid() == 0:
    os.setgroups([]), os.setgid(60001), os.setuid(60001)
"""
_LIMITED = f"""{_AS_ANOTHER}
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
from tinylora_tools.cli import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts threads on Linux")
@pytest.mark.parametrize(("command", "code"), [("inspect", 0), ("verify-base", 1)])
def test_too_few_threads_are_a_message(command: str, code: int) -> None:
    """OpenBLAS sends its own process an interrupt then, which nobody asked for; inspect needs no thread."""
    case = fixture("peft021-13-numbers")
    may_read = subprocess.run([sys.executable, "-B", "-c", f"{_AS_ANOTHER}\nimport tinylora_tools"], cwd=ROOT.parent)
    if may_read.returncode:
        pytest.skip("another user may not read this directory")
    line = [str(part) for part in (sys.executable, "-B", "-c", _LIMITED, command, case.adapter, "--base", case.base)]
    several = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    several["OMP_NUM_THREADS"] = "2"
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT.parent, env=several)
    assert (done.returncode, "Traceback" in done.stderr, "Interrupted" in done.stderr) == (code, False, False), done
    assert ("error: the system allows no more threads" in done.stderr) == (code == 1)


def test_an_interrupt_that_openblas_makes_is_none(tinylora: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise RuntimeError("can't start new thread")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinylora_tools.ops.inspect.run.inspect", interrupted)
    assert tinylora("inspect", fixture("peft021-13-numbers").adapter).code == 130
    monkeypatch.setattr("threading.Thread.start", refused)
    result = tinylora("inspect", fixture("peft021-13-numbers").adapter)
    assert (result.code, "the system allows no more threads" in result.err) == (1, True)


#: What needs which library; none of them needs peft or transformers.
NEEDS = {
    "torch": [
        ["factor", "BASE", "-o", "OUT.safetensors", "--target-modules", "q_proj"],
        ["init", "BASE", "-o", "OUT", "--target-modules", "q_proj"],
        ["convert", "packed", "ADAPTER", "--base", "BASE", "-o", "OUT.safetensors"],
        ["verify-base", "ADAPTER", "--base", "BASE"],
        ["verify-seed"],
        ["project", "--seed", "1", "-u", "3", "-r", "2", "--digest", "--stream", "torch"],
    ],
    "numpy": [["inspect", "ADAPTER"], ["count", "BASE"], ["merge", "ADAPTER", "-o", "OUT"]],
    "huggingface_hub": [["inspect", "hf://owner/name"]],
    "rich": [["inspect", "ADAPTER", "--save", "OUT.svg"]],
}

#: What does without.
DOES = {
    "torch": [
        ["inspect", "ADAPTER"],
        ["inspect", "BASE"],
        ["count", "BASE"],
        ["merge", "ADAPTER", "--base", "BASE", "-o", "OUT", "--manifest"],
        ["verify-output", "MERGED"],
        ["convert", "lora", "ADAPTER", "--base", "BASE", "-o", "OUT"],
        ["convert", "peft", "ADAPTER", "--base", "BASE", "-o", "OUT"],
        ["verify-seed", "ADAPTER"],
        ["project", "--seed", "1", "-u", "3", "-r", "2", "--digest"],
    ],
    "huggingface_hub": [["inspect", "ADAPTER"], ["verify-base", "ADAPTER", "--base", "BASE"]],
    "rich": [["inspect", "ADAPTER"]],
}

_WITHOUT = """
import sys
gone = sys.argv.pop(1).split(",")
class Gone:
    def find_spec(self, name, *_):
        if name.split(".")[0] in gone:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
from tinylora_tools.cli import main
main()
"""


def without(library: str, arguments: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where a library isn't installed, nor what would bring it along."""
    case = fixture("peft021-layers")
    if "MERGED" in arguments:
        merge(case.adapter, tmp_path / "merged", base=case.base, manifest=True)
    places = {"ADAPTER": str(case.adapter), "BASE": str(case.base), "MERGED": str(tmp_path / "merged")}
    words = [places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in arguments]
    command = [sys.executable, "-c", _WITHOUT, f"{library},peft,transformers", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT.parent)


@pytest.mark.parametrize(
    ("library", "arguments"),
    [
        # verify-seed starts processes of its own, which have torch here, before it needs it itself
        pytest.param(k, v, id=f"{k}: {' '.join(v[:2])}", marks=[pytest.mark.slow] if v == ["verify-seed"] else [])
        for k, of in NEEDS.items()
        for v in of
    ],
)
def test_a_library_that_is_missing(library: str, arguments: list[str], tmp_path: Path) -> None:
    done = without(library, arguments, tmp_path)
    assert (done.returncode, library != "rich" and done.stdout != "") == (1, False)  # what it shows, rich only draws
    assert (
        f"error: this needs {library}, which isn't installed\n  next: Install it: pip install {library}" in done.stderr
    )


@pytest.mark.parametrize(
    ("library", "arguments"), [pytest.param(k, v, id=f"{k}: {' '.join(v[:2])}") for k, of in DOES.items() for v in of]
)
def test_what_does_without_a_library(library: str, arguments: list[str], tmp_path: Path) -> None:
    done = without(library, arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
