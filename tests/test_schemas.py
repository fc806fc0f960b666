"""What every command prints with --json, against the schemas in docs/."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import make_schemas as script
import pytest
from click.testing import CliRunner
from fixture_data import fixture
from foreign_projects import make_anrgusc

from tinylora_tools.cli.convert import FORMS
from tinylora_tools.cli.main import COMMANDS, group

WHOLE, SHARED = fixture("peft021-layers"), fixture("peft021-13-numbers")

Run = Callable[..., Any]

#: Command lines of which each prints another report, or a report with other parts; OUT stands for a place to write.
LINES: list[list[str]] = [
    ["architecture", "BASE"],
    ["cache"],
    ["convert", "gguf", "ADAPTER", "--base", "BASE", "-o", "OUT.gguf"],
    ["convert", "lora", "ADAPTER", "--base", "BASE", "-o", "OUT"],
    ["convert", "packed", "ADAPTER", "--base", "BASE", "-o", "OUT.safetensors"],
    ["convert", "peft", "ADAPTER", "--base", "BASE", "-o", "OUT"],
    ["count", "BASE"],
    ["count", "BASE", "--budget", "13"],
    ["diff", "ADAPTER", "OTHER"],
    ["diff", "BASE", "MERGED"],
    ["doctor"],
    ["factor", "BASE", "-o", "OUT.safetensors", "--target-modules", "q_proj"],
    ["init", "BASE", "-o", "OUT"],
    ["inspect", "ADAPTER"],
    ["inspect", "BASE"],
    ["inspect", "PACKED"],
    ["inspect", "FOREIGN"],
    ["inspect", "ADAPTER", "BASE", "PACKED", "FOREIGN", "NOTHING"],
    ["merge", "ADAPTER", "--base", "BASE", "-o", "OUT"],
    ["merge", "ADAPTER", "--base", "BASE", "-o", "OUT", "--dry-run"],
    ["project", "--seed", "42", "-u", "3", "-r", "2"],
    ["push", "ADAPTER", "owner/name"],
    ["verify-base", "ADAPTER", "--base", "BASE"],
    ["verify-base", "ADAPTER", "--base", "MERGED"],
    ["verify-base", "ADAPTER", "--base", "BASE", "--against", "MERGED"],
    ["verify-output", "MERGED"],
    ["verify-output", "DAMAGED"],
    ["verify-seed", "ADAPTER"],
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    top = tmp_path_factory.mktemp("places")
    found = {"ADAPTER": WHOLE.adapter, "OTHER": SHARED.adapter, "BASE": WHOLE.base, "NOTHING": top / "nothing"}
    found |= {name: top / name.lower() for name in ("MERGED", "DAMAGED", "FOREIGN")}
    found["PACKED"] = top / "packed.safetensors"
    adapter = str(WHOLE.adapter)
    for line in (
        ["merge", adapter, "--base", str(WHOLE.base), "-o", str(found["MERGED"]), "--manifest", "-q"],
        ["convert", "packed", adapter, "--base", str(WHOLE.base), "-o", str(found["PACKED"]), "-q"],
    ):
        assert CliRunner().invoke(group, line).exit_code == 0
    make_anrgusc(WHOLE.base, found["FOREIGN"])
    shutil.copytree(found["MERGED"], found["DAMAGED"])
    weights = found["DAMAGED"] / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return {name: str(path) for name, path in found.items()}


def command_of(line: list[str]) -> str:
    return " ".join(line[:2]) if line[0] == "convert" else line[0]


def words_of(line: list[str], places: dict[str, str], tmp_path: Path) -> list[str]:
    return [str(tmp_path / word.lower()) if word.startswith("OUT") else places.get(word, word) for word in line]


@pytest.mark.usefixtures("inbox")
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_what_is_printed_is_as_its_schema_says(
    line: list[str], places: dict[str, str], tmp_path: Path, tinylora: Run
) -> None:
    found = json.loads(tinylora(*words_of(line, places, tmp_path), "--json").out)
    assert found.keys() != {"error"}
    jsonschema.validate(found, script.schema_of(command_of(line)))


def test_every_command_that_has_a_report_has_a_schema_and_a_line() -> None:
    every = {*COMMANDS, "cache", "doctor", *(f"convert {form}" for form in FORMS)} - {"convert"}
    assert every == script.REPORTS.keys() == {command_of(line) for line in LINES}


@pytest.mark.parametrize("command", script.REPORTS)
def test_an_error_is_as_each_schema_says(
    command: str, places: dict[str, str], tmp_path: Path, tinylora: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = script.schema_of(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    line = next(line for line in LINES if command_of(line) == command)
    words = words_of(line, {**places, "ADAPTER": places["NOTHING"], "BASE": places["NOTHING"]}, tmp_path)
    if command in ("cache", "doctor", "project", "verify-output", "verify-seed"):
        (tmp_path / "there.svg").touch()
        words += ["--save", str(tmp_path / "there.svg")]
    ended = tinylora(*words, "--json")
    found = json.loads(ended.out)
    assert (ended.code, found.keys()) == (1, {"error"})
    jsonschema.validate(found, schema)


def test_a_key_too_few_or_too_many_is_no_report(places: dict[str, str], tinylora: Run) -> None:
    found = json.loads(tinylora("count", places["BASE"], "--json").out)
    schema = script.schema_of("count")
    for other in ({**found, "more": 1}, {key: value for key, value in found.items() if key != "base"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, schema)


def test_the_documents_are_what_the_script_makes() -> None:
    assert script.PAGE.read_text("utf-8") == script.page()
    for command in script.REPORTS:
        written = json.loads((script.SCHEMAS / script.file_name(command)).read_text("utf-8"))
        assert written == script.schema_of(command), command
    assert len(list(script.SCHEMAS.iterdir())) == len(script.REPORTS)
