"""How the process of a command computes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from fixture_data import ROOT, fixture


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
        "from tinylora_tools.cli.process import keep_freed_memory\n"
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
        "import os; from tinylora_tools.cli.process import leave_threads_to_us; leave_threads_to_us()\n"
        "print(os.environ['OPENBLAS_NUM_THREADS'], os.environ['VECLIB_MAXIMUM_THREADS'])"
    )
    assert python(code) == "1 1"
    assert python(code, OPENBLAS_NUM_THREADS="3") == "3 1"
