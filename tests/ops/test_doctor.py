"""What this machine has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from fixture_data import ROOT

from tinylora_tools.ops import doctor as module
from tinylora_tools.ops.doctor import doctor
from tinylora_tools.ops.verify.machine import STREAM_OF


def test_it_says_what_torch_and_the_system_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobodysbusiness")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    report = doctor()
    assert {name: one.version for name, one in report.libraries.items()}["torch"] == version("torch")
    assert report.cpu_capability == torch.backends.cpu.get_cpu_capability().lower()
    assert report.stream == STREAM_OF[torch.backends.cpu.get_cpu_capability()]
    assert report.devices[0] == "cpu"
    assert (report.settings["OMP_NUM_THREADS"], report.problems) == ("3", [])
    if sys.platform == "linux":
        assert report.memory == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert report.memory_free is not None
        assert 0 < report.memory_free < report.memory
    assert "nobodysbusiness" not in json.dumps(asdict(report))
    assert report.hub.startswith("logged in")


def test_the_scalar_stream_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert (doctor().cpu_capability, doctor().stream) == ("default", "torch-cpu-scalar")


def test_a_torch_that_is_broken_or_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASKED", "raise OSError('libtorch_cpu.so: file too short')")
    assert doctor().problems == ["torch is installed but doesn't run: OSError: libtorch_cpu.so: file too short"]
    assert (doctor().stream, doctor().devices) == (None, [])
    monkeypatch.setattr(module, "_version", lambda name: None)
    assert (doctor().libraries["torch"].version, doctor().problems) == (None, [])


@pytest.mark.parametrize("gone", ["numpy", "huggingface_hub", "rich"])
def test_it_works_where_a_library_is_missing(gone: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.split('.')[0] == {gone!r}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Gone()); sys.argv = ['tinylora', 'doctor']\n"
        "from tinylora_tools.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    assert "Torch draws" in done.stdout
