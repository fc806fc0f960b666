"""Command lines, one after the other, in a process that torchrun started: `rank_lines.py JSON`, with their list."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch.distributed as dist

from tinylora_tools import ranks
from tinylora_tools.cli import main
from tinylora_tools.ops.merge.writing.write import MergeWriter


def die_at(point: int, who: int) -> None:
    """Have the process of that number killed at the point of that number: where it waits for others, or has written
    something."""
    passed = 0

    def counting(function: Any) -> Any:
        def counted(*arguments: Any, **given: Any) -> Any:
            nonlocal passed
            passed += ranks.ranks().number == who and ranks.ranks().count > 1
            if passed == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **given)

        return counted

    for owner, name in ((ranks._Joined, "wait"), (ranks._Joined, "gathered"), (MergeWriter, "_written")):
        setattr(owner, name, counting(getattr(owner, name)))


def run(line: list[str]) -> int:
    sys.argv = ["tinylora", *line]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if "die" in given:
        die_at(*given["die"])
    dist.init_process_group("gloo")  # once for all lines: a second time it would meet what is left of the first
    codes = [run(line) for line in given["lines"]]
    dist.destroy_process_group()
    sys.exit(max(codes))
