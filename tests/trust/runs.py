"""Every command that writes, run many times over: killed, failing, and several at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from damage import snapshot
from fixture_data import ROOT, fixture

WHOLE, SHARDED = fixture("peft021-layers"), fixture("peft020-seed-only")

#: What writes: OUT stands for the output, and the others for copies of fixtures.
COMMANDS: dict[str, tuple[str, ...]] = {
    "merge": ("merge", "WHOLE", "--base", "BASE", "-o", "OUT"),
    "merge of shards": ("merge", "SHARDED", "--base", "SHARDS", "-o", "OUT", "--threads", "2"),
    "merge with a manifest": ("merge", "WHOLE", "--base", "BASE", "-o", "OUT", "--manifest"),
    "init": ("init", "BASE", "-o", "OUT"),
    "factor": ("factor", "BASE", "-o", "OUT.safetensors", "--target-modules", "q_proj"),
    "convert lora": ("convert", "lora", "WHOLE", "--base", "BASE", "-o", "OUT"),
    "convert gguf": ("convert", "gguf", "WHOLE", "--base", "BASE", "-o", "OUT.gguf"),
    "convert peft": ("convert", "peft", "WHOLE", "--base", "BASE", "-o", "OUT"),
    "convert packed": ("convert", "packed", "WHOLE", "--base", "BASE", "-o", "OUT.safetensors"),
    "project": ("project", "SHARDED", "--base", "SHARDS", "-o", "OUT"),
    "project of a seed": ("project", "--seed", "42", "-u", "3", "-r", "2", "-o", "OUT.safetensors"),
    "verify-seed": ("verify-seed", "WHOLE", "--record", "OUT.json"),
    "architecture": ("architecture", "BASE", "-o", "OUT.json"),
}

#: Commands that take seconds each time, behind the slow mark where a test runs each command often.
SLOW = ("architecture",)


def quick(commands: Iterable[str]) -> list[Any]:
    """Parameters for commands, the slow ones marked."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in commands]


def in_turn(commands: Iterable[str]) -> list[Any]:
    """Parameters for commands and whether there is an output already: one way each, the other behind the slow mark."""
    ways = []
    for number, name in enumerate(commands):
        for force in (False, True):
            marks = [pytest.mark.slow] if name in SLOW or force != bool(number % 2) else []
            ways.append(pytest.param(name, force, marks=marks, id=f"{name}-{'replaced' if force else 'new'}"))
    return ways


NOTHING, KILL, FAIL, DELAY = range(4)
WRITES = (
    "write", "writev", "pwrite64", "ftruncate64", "posix_fallocate64", "copy_file_range", "sendfile64", "fsync",
    "fdatasync", "rename", "renameat2", "mkdir", "unlink", "unlinkat", "rmdir", "open64",
)  # fmt: skip


class Ended(NamedTuple):
    """How a run ended: its exit code, or its signal's number below zero, what it said, and how many calls were counted
    (of all that ran at the same time)."""

    code: int
    err: str
    count: int


class Ways(NamedTuple):
    """The directory in which everything is, and what the words of `COMMANDS` stand for."""

    top: Path
    places: Mapping[str, Path]

    def arguments(self, command: str) -> list[str]:
        return [self._word(word) for word in COMMANDS[command]]

    def _word(self, word: str) -> str:
        stem, dot, ending = word.partition(".")
        return str(self.places[stem]) + dot + ending if stem in self.places else word

    def output(self, command: str) -> Path:
        return Path(next(word for word in self.arguments(command) if word.startswith(str(self.places["OUT"]))))

    def clear(self) -> None:
        """Remove the output, and whatever a run left beside it."""
        shutil.rmtree(self.places["OUT"].parent, ignore_errors=True)
        self.places["OUT"].parent.mkdir()


def ways_in(top: Path, out: Path | None = None) -> Ways:
    """Copies of the fixtures below a directory, and a directory for outputs."""
    copies = {
        "WHOLE": WHOLE.adapter,
        "BASE": WHOLE.base,
        "SHARDED": SHARDED.adapter,
        "SHARDS": SHARDED.base,
    }
    places = {name: top / "in" / name for name in copies}
    for name, source in copies.items():
        shutil.copytree(source, places[name])
    found = Ways(top, {**places, "OUT": (out or top / "outputs") / "out"})
    found.places["OUT"].parent.mkdir(exist_ok=True)
    return found


def content(path: Path) -> object:
    """A file's bytes, or those of a directory's files; None where nothing is."""
    return snapshot(path) if path.is_dir() else path.read_bytes() if path.exists() else None


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@dataclass
class Server:
    """The process that runs commands, and the directory where they say what they say."""

    process: subprocess.Popen[str]
    said: Path

    def run(self, arguments: Sequence[str], **how: Any) -> Ended:
        return self.together([arguments], **how)[0]

    def together(
        self,
        runs: Sequence[Sequence[str]],
        *,
        under: Path | None = None,
        calls: Sequence[str] = WRITES,
        at: int = 0,
        action: int = NOTHING,
        error: int = errno.EIO,
        seed: int = 0,
        after: float | None = None,
        signal: int = 9,
        exchange: bool = True,
    ) -> list[Ended]:
        """Runs that begin at the same time, as they ended, in the order of `runs`.

        Calls below `under` are counted; the one with the number `at` is the last, or fails, or all are late, by
        `action`. With `after`, each gets a signal so many seconds later. Without `exchange`, as on a file system where
        names can't change places.
        """
        common = {
            "under": str(under or "/nowhere"), "calls": ",".join(calls), "at": at, "action": action, "error": error,
            "seed": seed, "after": after, "signal": signal, "exchange": exchange,
        }  # fmt: skip
        jobs = [  # the merge of shards goes past the page cache
            {
                **common,
                "arguments": list(one),
                "past_cache": "--threads" in one,
                "out": str(self.said / f"{n}.out"),
                "err": str(self.said / f"{n}.err"),
            }
            for n, one in enumerate(runs)
        ]
        for job in jobs:  # a run may be killed before it says anything
            Path(job["out"]).write_bytes(b"")
            Path(job["err"]).write_bytes(b"")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        codes = dict(answer["ended"])
        return [Ended(codes[n], (self.said / f"{n}.err").read_text(), answer["count"]) for n in range(len(runs))]


@contextmanager
def served(directory: Path) -> Iterator[Server]:
    """A server with the faults preloaded; the test is skipped where they can't be compiled, or preloaded."""
    compiler, library = shutil.which("gcc") or shutil.which("cc"), directory / "faults.so"
    if compiler is None or sys.platform != "linux":
        pytest.skip("calls can be made to fail on Linux, with a C compiler")
    source = Path(__file__).parent / "faults.c"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, Path(__file__).parent / "server.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT.parent,
        env={**os.environ, **one_thread, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT.parent)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield Server(process, directory)
    finally:
        process.stdin.close()
        process.stdout.close()
        assert process.wait(30) == 0
