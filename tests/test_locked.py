"""What CI installs is pinned whole, with hashes, and is what constraints.txt says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
ENTRY = re.compile(r"(?P<pin>[^\s#\\][^\\\n]*?)\s*\\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")


def pins(text: str) -> dict[str, str]:
    """Name to version of the lines NAME==VERSION."""
    found = {}
    for line in text.splitlines():
        if line and line[0] not in "# ":
            requirement = Requirement(line.removesuffix("\\"))
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


@pytest.fixture(scope="module")
def locked() -> str:
    return (ROOT / ".ci" / "requirements.txt").read_text()


def test_every_pin_has_its_hashes(locked: str) -> None:
    lines = [line for line in locked.splitlines(keepends=True) if not line.startswith("#") and line.strip()]
    entries = [match.group() for match in ENTRY.finditer("".join(lines))]
    assert "".join(entries) == "".join(lines)
    assert len(entries) > 50


def test_it_is_what_the_constraints_say(locked: str) -> None:
    of_the_tests = pins((ROOT / "constraints.txt").read_text())
    assert of_the_tests.items() <= pins(locked).items()


def test_all_that_the_project_names_is_in_it(locked: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["test"],
    ]
    versions = pins(locked)
    for requirement in map(Requirement, named):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier
