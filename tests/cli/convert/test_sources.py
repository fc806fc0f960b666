"""What is said of adapters of other forms and projects, as it is typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_projects as projects
import pytest
from fixture_data import ROOT, fixture
from third_party_updates import converted, near

Run = Callable[..., Any]

FORMS = ("lora", "peft", "packed")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--from", "gguf"], "'gguf' is not one of 'peft', 'packed', 'anrgusc', 'chi-shan0707',"),
        (["--setting", "rank"], "'rank', expected NAME=VALUE."),
        (["--setting", "=2"], "'=2', expected NAME=VALUE."),
    ],
    ids=" ".join,
)
def test_values_that_cannot_be_parsed(complaint: Callable[..., str], form: str, option: list[str], said: str) -> None:
    case = fixture("peft020-tiny")
    assert said in complaint(2, "convert", form, case.adapter, "--base", case.base, "-o", "OUT", *option)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_insisted_on_and_isnt_so(complaint: Callable[..., str], form: str) -> None:
    case = fixture("peft020-tiny")
    said = complaint(
        1, "convert", form, case.adapter, "--base", case.base, "-o", "OUT.safetensors", "--from", "spuuntries"
    )
    assert said == f"error: {case.adapter}: is of the kind peft, not spuuntries next: Say --from peft, or nothing."


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("option", [["--setting", "rank=2"], ["--projection", "HERE"], ["--against", "HERE"]], ids=str)
def test_what_is_for_other_projects_is_refused_of_peft(
    complaint: Callable[..., str], form: str, option: list[str]
) -> None:
    """A file that nothing would read isn't passed over in silence."""
    case = fixture("peft020-tiny")
    typed = [case.base if part == "HERE" else part for part in option]
    said = complaint(1, "convert", form, case.adapter, "--base", case.base, "-o", "OUT.safetensors", *typed)
    assert f"is peft: {option[0]} is for other projects' adapters" in said


def test_settings_are_repeated_and_spelled_either_way(tinylora: Run, tmp_path: Path) -> None:
    base, source = ROOT / "bases" / "llama-fp32", tmp_path / "source"
    updates = projects.make_anrgusc(base, source, mode="tiled", factor=5)
    said = ["--setting", "rank=2", "--setting", "alpha = 2", "--setting", "tie-mode=tiled"]
    arguments = ["convert", "peft", source, "--base", base, *said]
    missing = tinylora(*arguments, "-o", tmp_path / "o")
    assert (missing.code, "Give it with --setting tie_factor=VALUE." in missing.err) == (1, True), missing
    result = tinylora(*arguments, "--setting", "tie_factor=5", "-o", tmp_path / "o")
    assert result.code == 0, result
    near(converted(tmp_path / "o"), updates)
    typo = tinylora(*arguments, "--setting", "tie_factor=5", "--setting", "rnak=2", "-o", tmp_path / "p")
    assert (typo.code, "rnak" in typo.err) == (1, True), typo
