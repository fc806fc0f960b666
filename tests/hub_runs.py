"""Commands that run beside a Hub on this machine, with a cache of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

#: Processes that begin as copies of one that has imported what takes seconds, but neither this project nor
#: huggingface_hub, which read the environment as they are imported.
_COPIES = multiprocessing.get_context("forkserver")
_COPIES.set_forkserver_preload(
    ["click", "rich.console", "numpy", "ml_dtypes", "safetensors", "torch", "httpx", "httpx2", "httpcore2", "h11",
     "anyio", "yaml", "tqdm.auto", "fsspec", "filelock", "jinja2"]
)  # fmt: skip


def run_beside(address: str, home: Path, *words: str, within: float = 60, **settings: str) -> tuple[int, Any, str]:
    """A command with the Hub at that address and its cache in `home`: its exit code, its JSON, and what it says;
    TimeoutError where it goes on. `settings` are of the environment, from which whatever concerns a Hub is left out."""
    with TemporaryDirectory() as name:
        said = Path(name)
        process = _COPIES.Process(
            target=_command, args=(_arguments(words), _environment(address, home, settings), str(Path.cwd()), name)
        )
        process.start()
        process.join(within)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{words} goes on after {within} s: {(said / 'err').read_text()}")
        code = process.exitcode
        process.close()
        return code, json.loads((said / "out").read_text() or "null"), (said / "err").read_text()


def started(address: str, home: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
    """The same as a process of its own that goes on, to be told to end."""
    return subprocess.Popen(
        [sys.executable, "-m", *_arguments(words)],
        env=_environment(address, home, settings),
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


def _arguments(words: Sequence[str]) -> list[str]:
    return ["tinylora_tools", *words, "--json"]


def _environment(address: str, home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**clean, "HF_HOME": str(home), "HF_ENDPOINT": address, **settings}


def _command(arguments: list[str], environment: dict[str, str], directory: str, said: str) -> None:
    """In the copy: what `python -m` does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(said) / name, os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = arguments
    from tinylora_tools.cli import main  # which mustn't be there before the environment is

    main()
