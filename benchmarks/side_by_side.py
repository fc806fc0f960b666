"""The tool and its peers in turns, and what came of it: rows of the table that README's figures are from."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE / "RESULTS.md"

#: Where the table stands in RESULTS.md.
BEGIN, END = "<!-- The table is made by `python -m benchmarks --record`. -->", "<!-- That was the table. -->"


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured: medians in seconds. `ratio` is ours to the peer's, the median of the rounds' ratios; `limit`
    says what takes the time."""

    name: str
    what: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    limit: str
    day: str


@dataclass(frozen=True, slots=True)
class Work:
    """Something to time, and what is done before each time that isn't."""

    run: Callable[[], object]
    before: Callable[[], object] = lambda: None

    def seconds(self) -> float:
        self.before()
        started = time.perf_counter()
        self.run()
        return time.perf_counter() - started


def row(name: str, what: str, ours: Work, peer: str, theirs: Work, *, runs: int, limit: str) -> Row:
    """Both, in turns: a machine that is noisy is so for both."""
    rounds = [(theirs.seconds(), ours.seconds()) for _ in range(runs)]
    others, mine = (statistics.median(each) for each in zip(*rounds, strict=True))
    ratio = statistics.median(own / other for other, own in rounds)
    return Row(name, what, mine, peer, others, ratio, limit, date.today().isoformat())


def command(*words: object, output: Path | None = None) -> Work:
    """A command, and before it the end of what it wrote the last time."""

    def run() -> None:
        done = subprocess.run([*map(str, words)], capture_output=True, check=False, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stderr}")

    def before() -> None:
        if output is not None:
            shutil.rmtree(output, ignore_errors=True)
            os.sync()

    return Work(run, before)


def tinylora(*words: object, output: Path | None = None) -> Work:
    """A command of this tool, by the program that is installed."""
    return command(Path(sys.executable).with_name("tinylora"), *words, output=output)


def machine(directory: Path) -> str:
    """In a sentence."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = next((int(line.split()[1]) / 1e6 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0.0)
    kind = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False).stdout
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "safetensors", "huggingface_hub"))
    return f"{cores} cores of {cpu}, {memory:.0f} GB, {kind.strip()}; Python {platform.python_version()}, {libraries}"


def _lines(path: str) -> Sequence[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    head = (
        "| name | what | ours, s | beside | s | ratio | what limits it | measured |\n|---|---|--:|---|--:|--:|---|---|"
    )
    lines = [
        f"| {one.name} | {one.what} | {one.ours:.3g} | {one.peer} | {one.theirs:.3g} | {one.ratio:.2f} | {one.limit} "
        f"| {one.day} |"
        for one in rows
    ]
    return "\n".join([head, *lines])


def recorded() -> dict[str, Row]:
    """The rows that were kept, by their names."""
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    return {one["name"]: Row(**one) for one in held["rows"]}


def record(rows: Sequence[Row], said: str) -> None:
    """Keep rows, in the place of older ones, and write the table."""
    every = recorded() | {one.name: one for one in rows}
    held = json.loads(RESULTS.read_text())["machines"] if RESULTS.exists() else {}
    days = {one.day for one in every.values()}
    machines = {day: what for day, what in sorted({**held, date.today().isoformat(): said}.items()) if day in days}
    kept = {"machines": machines, "rows": [asdict(one) for one in every.values()]}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    told = "\n".join(f"- {day}: {what}." for day, what in machines.items())
    PAGE.write_text(f"{before}{BEGIN}\n\n{told}\n\n{table([*every.values()])}\n\n{END}{after}")
