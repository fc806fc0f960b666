"""Commands that run beside a Hub on this machine, with a cache of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def started(address: str, home: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
    """A command that goes on, with the Hub at that address and its cache in `home`; `settings` are of the environment,
    from which whatever concerns a Hub is left out."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {**clean, "HF_HOME": str(home), "HF_ENDPOINT": address, **settings}
    line = [sys.executable, "-m", "tinylora_tools", *words, "--json"]
    return subprocess.Popen(
        line,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )


def finished(run: subprocess.Popen[str], within: float = 60) -> tuple[int, Any, str]:
    """Its exit code, its JSON, and what it says."""
    out, said = run.communicate(timeout=within)
    return run.returncode, json.loads(out or "null"), said


def told_to_end(run: subprocess.Popen[str], number: signal.Signals, within: float = 10) -> tuple[int, str]:
    """A command that gets a signal: its exit code, and what it says; TimeoutExpired where it goes on."""
    run.send_signal(number)
    try:
        _, said = run.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        run.kill()
        run.communicate()
        raise
    return run.returncode, said
