"""Runs the command line again and again, each time in a copy of this process (fork), which has imported everything.

Started with `faults.c` preloaded. A line of JSON on stdin holds runs that go on at the same time; a line on stdout says
how they ended, in the order in which they did.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

from tinylora_tools.cli import convert, main
from tinylora_tools.cli.main import COMMANDS
from tinylora_tools.ops.architecture.run import architecture
from tinylora_tools.ops.merge.writing import target, write
from tinylora_tools.output import rename

for _module, _ in COMMANDS.values():
    importlib.import_module(f"tinylora_tools.cli.{_module}")
for _module in ("lora", "packed", "peft"):
    importlib.import_module(f"{convert.__name__}.{_module}")
for _module in (
    "ops.merge.run", "ops.convert.lora", "ops.convert.packed", "ops.convert.peft", "ops.create.init", "ops.factor",
    "ops.project", "ops.verify.seed", "adapters.unpack", "huggingface_hub",
):  # fmt: skip
    importlib.import_module(_module if _module == "huggingface_hub" else f"tinylora_tools.{_module}")

write.FLUSH_BYTES = 1 << 12  # so that the smallest merge sends something to the disk while it goes on

target.WINDOW = 1 << 12  # and to have windows

MOST_SECONDS = 60  # after which a run hangs, and is killed

faults = ctypes.CDLL(None)
faults.faults_count.restype = ctypes.c_long


warm: set[str] = set()


def warm_up(arguments: list[str]) -> None:
    """Import what takes seconds, once, where a command is going to need it."""
    if arguments[0] == "architecture" and arguments[0] not in warm:
        warm.add(arguments[0])
        architecture(arguments[1])


def begin(job: dict[str, Any]) -> int:
    """Start a run; returns its process."""
    requests = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, requests)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, requests)
        return pid
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["tinylora", *job["arguments"]]
    under, calls = job["under"].encode(), job["calls"].encode()
    faults.faults_arm(under, calls, ctypes.c_long(job["at"]), job["action"], job["error"], job["seed"])
    if job["past_cache"]:
        target._CACHED = -1.0
    if not job["exchange"]:
        rename._renameat2 = lambda *_: False
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, requests)
    except KeyboardInterrupt:  # before there is a command
        os._exit(130)
    code = 99
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def finish(jobs: list[dict[str, Any]], running: dict[int, int]) -> list[list[int]]:
    ended = []
    if jobs[0]["after"] is not None:
        time.sleep(jobs[0]["after"])
        for pid in running:
            os.kill(pid, jobs[0]["signal"])
    deadline = time.monotonic() + MOST_SECONDS
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            ended.append([running.pop(pid), os.waitstatus_to_exitcode(status)])
        elif time.monotonic() > deadline:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            deadline += MOST_SECONDS
        else:
            time.sleep(0.0005)
    return ended


def serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        jobs = json.loads(line)
        for job in jobs:
            warm_up(job["arguments"])
        ended = finish(jobs, {begin(job): number for number, job in enumerate(jobs)})
        print(json.dumps({"ended": ended, "count": faults.faults_count()}), flush=True)


if __name__ == "__main__":
    serve()
