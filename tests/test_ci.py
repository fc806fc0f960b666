"""The action, the hook and the workflow: what they run, run here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixture_data import fixture

ROOT = Path(__file__).parent.parent


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A runner's, with this tree's `tinylora`."""
    program = tmp_path / "bin" / "tinylora"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tinylora_tools "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}


def verify(environment: dict[str, str], **inputs: object) -> tuple[int, str]:
    """The action's last step with these inputs: its exit code, and the job's summary."""
    step = parsed("action.yml")["runs"]["steps"][-1]
    given = {}
    for name, value in step["env"].items():
        (of,) = re.findall(r"^\$\{\{ inputs\.(\w+) \}\}$", value)
        assert of in parsed("action.yml")["inputs"]
        given[name] = str(inputs.get(of, ""))
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(command, env=environment | given, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "Traceback" not in done.stderr
    return done.returncode, Path(environment["GITHUB_STEP_SUMMARY"]).read_text()


def test_the_action_verifies_an_adapter(environment: dict[str, str]) -> None:
    case = fixture("peft020-tiny")
    code, summary = verify(environment, adapter=case.adapter, base=case.base)
    assert code == 0
    assert "### tinylora verify-seed" in summary
    assert "**All agree.**" in summary
    assert "### tinylora verify-base" in summary
    assert "**The targeted weights fit the adapter's factors; " in summary
    assert summary.count("| same-weights |") == 14


def test_the_action_fails_where_a_verdict_is_bad(environment: dict[str, str]) -> None:
    """And says what it found, also of what comes after."""
    lost, other = fixture("peft019-seed-only"), fixture("peft020-tiny")
    code, summary = verify(environment, adapter=lost.adapter, base=other.base)
    assert code == 1
    assert "**Not all agree.**" in summary
    assert "### tinylora verify-base" in summary


def test_the_hook_reads_what_it_is_given(environment: dict[str, str], tmp_path: Path) -> None:
    (hook,) = parsed(".pre-commit-hooks.yaml")
    adapters = [str(fixture(name).adapter) for name in ("peft020-tiny", "peft021-pickled")]
    files = [
        str(path) for adapter in adapters for path in Path(adapter).iterdir() if re.search(hook["files"], str(path))
    ]
    assert len(files) == 2
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut")
    for given, code in ((files, 0), ([*files, str(tmp_path / "adapter_model.safetensors")], 1)):
        done = subprocess.run(
            [*hook["entry"].split(), *given], env=environment, capture_output=True, check=False, cwd=ROOT
        )
        assert done.returncode == code, done.stderr


def test_the_workflow_runs_what_ci_runs() -> None:
    job = parsed(".github/workflows/ci.yml")["jobs"]["test"]
    assert job["steps"][-1]["run"] == ".ci/run"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
