"""How the process of a command computes."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import snapshot
from fixture_data import ROOT, fixture

from tinylora_tools import merge


def python(code: str, **environment: str) -> str:
    """What a program prints, which starts without the settings of whoever runs the tests."""
    kept = {
        name: value for name, value in os.environ.items() if not name.endswith(("_NUM_THREADS", "_MAXIMUM_THREADS"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=kept | environment,
        cwd=ROOT.parent,
    )
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_blocks_are_kept() -> None:
    """A block that is asked for again and again costs page faults the first time only."""
    code = (
        "import resource, numpy as np\n"
        "from tinylora_tools.cli.shell.process import keep_freed_memory\n"
        "{}\n"
        "def faults():\n    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "np.ones(1 << 23)\n"
        "before = faults()\n"
        "for _ in range(8): np.ones(1 << 23)\n"  # 64 MiB: glibc never keeps so large a block by itself
        "print(faults() - before)"
    )
    kept, returned = int(python(code.format("keep_freed_memory()"))), int(python(code.format("")))
    assert 10 * kept < returned


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in Linux's /proc")  # noqa: PTH112
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread anyway")
def test_numpy_is_kept_to_one_thread_in_a_merge() -> None:
    """Its library starts threads as it is imported, so the command has to speak first."""
    case = fixture("peft020-tiny")
    arguments = ["tinylora", "merge", str(case.adapter), "--base", str(case.base), "-o", "nowhere", "--dry-run", "-q"]
    code = (
        "import atexit, os, sys; from tinylora_tools.cli import main\n"
        "atexit.register(lambda: print(len(os.listdir('/proc/self/task')), 'numpy' in sys.modules))\n"
        f"sys.argv = {arguments!r}; main()"
    )
    assert python(code) == "1 True"


def test_threads_that_the_user_asked_for_are_left() -> None:
    code = (
        "import os; from tinylora_tools.cli.shell.process import leave_threads_to_us; leave_threads_to_us()\n"
        "print(os.environ['OPENBLAS_NUM_THREADS'], os.environ['VECLIB_MAXIMUM_THREADS'])"
    )
    assert python(code) == "1 1"
    assert python(code, OPENBLAS_NUM_THREADS="3") == "3 1"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "code"), [("inspect", 0), ("inspect --json", 0), ("merge -o OUT --base", 0), ("no", 2)]
)
def test_streams_that_are_closed(command: str, code: int, closed: str, tmp_path: Path) -> None:
    """Nobody hears, and nothing that is printed goes into a file that got the stream's number."""
    case = fixture("peft020-tiny")
    name, *options = command.replace("OUT", str(tmp_path / "o")).split()
    words = [sys.executable, "-m", "tinylora_tools", name, case.adapter, *options]
    words += [case.base] if options[-1:] == ["--base"] else []
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, text=True, check=False, cwd=ROOT.parent
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    if name == "merge":
        merge(case.adapter, tmp_path / "heard", base=case.base)
        assert snapshot(tmp_path / "o") == snapshot(tmp_path / "heard")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")  # noqa: PTH110
@pytest.mark.parametrize("streams", [">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("command", ["inspect", "inspect --json"])
def test_streams_that_are_full(command: str, streams: str) -> None:
    """A message, where it can be read, and never success."""
    case = fixture("peft021-13-numbers")
    words = [sys.executable, "-m", "tinylora_tools", *command.split(), case.adapter]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {streams}', "sh", *words], capture_output=True, text=True, check=False, cwd=ROOT.parent
    )
    warns = "2>" not in streams or ">/dev/full 2>" in streams
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert ("error: " in done.stderr) == (streams == ">/dev/full") or not warns


def test_a_terminal_that_is_closed_is_a_request_to_end_but_under_nohup() -> None:
    code = (
        "import os, signal, sys\n"
        "from tinylora_tools.cli.shell.process import end_on_signals\n"
        "{}\nend_on_signals()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGHUP)\n"
        "except SystemExit as end:\n    print(end.code); os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('cleaned up')"
    )
    heeded = "signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # whatever these tests are run under
    assert python(code.format(heeded)).split("\n") == ["129", "cleaned up"]
    assert python(code.format("signal.signal(signal.SIGHUP, signal.SIG_IGN)")) == "cleaned up"


@pytest.mark.parametrize("form", ["table", "json", "markdown", "csv"])
@pytest.mark.parametrize("command", ["inspect", "verify-seed"])
def test_a_reader_that_has_gone_is_141(command: str, form: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    words = [sys.executable, "-m", "tinylora_tools", command, fixture("peft021-13-numbers").adapter, "--format", form]
    done = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, check=False, cwd=ROOT.parent)
    os.close(theirs)
    assert (done.returncode, b"Traceback" in done.stderr) == (141, False), done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_will_do(encoding: str, tmp_path: Path) -> None:
    """Rules and bars have stand-ins, names that it lacks are escaped."""
    shutil.copytree(fixture("peft020-tiny").adapter, tmp_path / "模型é")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "tinylora_tools", "inspect", tmp_path / "模型é"]
    done = subprocess.run(words, capture_output=True, check=False, cwd=ROOT.parent, env=environment)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert ("模型" if encoding == "utf-8" else "\\u6a21\\u578b") in shown
    assert ("───" if encoding == "utf-8" else "---") in shown


#: What takes what; OUT is made new each time.
NAMES = {
    "inspect": ["inspect", "ADAPTER"],
    "inspect of a base": ["inspect", "BASE", "--json"],
    "count": ["count", "BASE", "--format", "csv"],
    "init": ["init", "BASE", "-o", "OUT", "--target-modules", "q_proj"],
    "factor": ["factor", "BASE", "-o", "OUT.safetensors", "--target-modules", "q_proj"],
    "merge": ["merge", "ADAPTER", "--base", "BASE", "-o", "OUT", "--manifest"],
    "convert lora": ["convert", "lora", "ADAPTER", "--base", "BASE", "-o", "OUT"],
    "convert peft": ["convert", "peft", "ADAPTER", "--base", "BASE", "-o", "OUT"],
    "convert packed": ["convert", "packed", "ADAPTER", "--base", "BASE", "-o", "OUT.safetensors"],
    "verify-base": ["verify-base", "ADAPTER", "--base", "BASE", "--format", "markdown"],
    "verify-seed": ["verify-seed", "ADAPTER", "--base", "BASE", "--record", "OUT.json"],
    "project": ["project", "ADAPTER", "--base", "BASE", "-o", "OUT"],
    "architecture": ["architecture", "BASE", "-o", "OUT.json"],
    "a picture": ["inspect", "ADAPTER", "--save", "OUT.svg"],
    "a page": ["inspect", "ADAPTER", "--save", "OUT.html"],
}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_not_utf_8(tinylora: Callable[..., Any], tmp_path: Path, name: str) -> None:
    case, odd = fixture("peft021-layers"), os.fsdecode(b"caf\xe9 \xff")
    places = {"ADAPTER": case.adapter, "BASE": case.base}
    for place, path in places.items():
        shutil.copytree(path, tmp_path / odd / (place + odd))
    words = [
        tmp_path / odd / (word + odd) if word in places else word.replace("OUT", str(tmp_path / odd / f"out{odd}"))
        for word in NAMES[name]
    ]
    result = tinylora(*words)
    assert result.code == 0, result
    assert ("OUT" in "".join(NAMES[name])) == any(path.name.startswith("out") for path in (tmp_path / odd).iterdir())
    json.loads(result.out) if "--json" in words else None
