"""-o and --force, whichever command has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import snapshot
from fixture_data import fixture

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]


def test_force_never_replaces_an_input(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    """Neither one whose place a temporary directory takes, nor one that is named by a file in it, nor the base."""
    adapter, base = copied("peft021-13-numbers")
    (tmp_path / "in" / "packed").mkdir()
    packed, weights = tmp_path / "in" / "packed" / "adapter.safetensors", adapter / "adapter_model.safetensors"
    assert tinylora("convert", "packed", adapter, "-o", packed, "--base", base).code == 0
    before = snapshot(tmp_path)
    for arguments, output, relation in (
        (("merge", packed), packed.parent, "holds the input"),
        (
            (
                "convert",
                "peft",
                packed,
            ),
            packed.parent,
            "holds the input",
        ),
        (
            (
                "convert",
                "lora",
                packed,
            ),
            base,
            "is the input",
        ),
        (
            (
                "convert",
                "peft",
                adapter,
            ),
            base,
            "is the input",
        ),
        (
            (
                "convert",
                "packed",
                adapter,
            ),
            weights,
            "lies inside the input",
        ),
        (
            (
                "convert",
                "packed",
                packed,
            ),
            packed,
            "is the input",
        ),
        (("merge", weights), adapter, "is the input"),
        (("merge", weights), adapter / "out", "lies inside the input"),
        (("project", adapter), base, "is the input"),
    ):
        result = tinylora(*arguments, "--base", base, "-o", output, "--force")
        assert (result.code, relation in result.err) == (1, True), (arguments, result)
    assert snapshot(tmp_path) == before
    assert tinylora("merge", packed, "--base", base, "-o", packed.parent / "out").code == 0  # beside it there is room
    assert tinylora("convert", "packed", adapter, "-o", adapter / "new.safetensors", "--base", base).code == 0


def test_force_never_replaces_a_base_that_only_the_adapter_names(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft021-13-numbers")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}))
    packed = tmp_path / "in" / "packed" / "p.safetensors"  # from there, ../base is the base too
    assert tinylora("convert", "packed", adapter, "-o", packed, "--base", base).code == 0
    before = snapshot(tmp_path)
    for arguments in (
        (
            "convert",
            "peft",
            adapter,
        ),
        (
            "convert",
            "lora",
            adapter,
        ),
        (
            "convert",
            "peft",
            packed,
        ),
        ("project", adapter),
    ):
        result = tinylora(*arguments, "-o", base, "--force")
        assert (result.code, "is the input" in result.err) == (1, True), (arguments, result)
    assert snapshot(tmp_path) == before
    assert tinylora("convert", "peft", adapter, "-o", tmp_path / "out").code == 0


def test_names_that_nothing_would_read_a_file_by(copied: Copied, tinylora: Run, tmp_path: Path) -> None:
    adapter, base = copied("peft021-13-numbers")
    for arguments in (("factor", base), ("convert", "packed", adapter, "--base", base)):
        result = tinylora(*arguments, "-o", tmp_path / "p.bin")
        assert (result.code, result.out) == (1, "")
        assert "p.bin: expected the ending .safetensors" in " ".join(result.err.split())
        assert "Name it p.bin.safetensors" in result.err
    assert not list(tmp_path.glob("*p.bin*"))


#: What writes, with OUT for where.
WRITING = {
    "merge": ["merge", "ADAPTER", "--base", "BASE", "-o", "OUT"],
    "convert lora": ["convert", "lora", "ADAPTER", "--base", "BASE", "--output=OUT"],
    "convert peft": ["convert", "peft", "ADAPTER", "--base", "BASE", "-oOUT"],
    "convert packed": ["convert", "packed", "ADAPTER", "--base", "BASE", "-o", "OUT.safetensors"],
    "factor": ["factor", "BASE", "--target-modules", "q_proj", "--output=OUT.safetensors"],
    "init": ["init", "BASE", "--target-modules", "q_proj", "-o", "OUT"],
    "project": ["project", "--seed", "1", "-u", "3", "-r", "2", "--output=OUT.safetensors"],
    "architecture": ["architecture", "BASE", "--output=OUT.json"],
    "a golden file": ["verify-seed", "ADAPTER", "--record=OUT.json"],
    "a picture": ["inspect", "ADAPTER", "--save=OUT.svg"],
}


@pytest.mark.parametrize("name", WRITING)
def test_a_tilde_is_the_home_directory(
    tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case = fixture("peft021-layers")
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    places = {"ADAPTER": str(case.adapter), "BASE": str(case.base)}
    result = tinylora(*(places.get(word, word.replace("OUT", "~/out")) for word in WRITING[name]))
    assert result.code == 0, result
    assert [path.name.partition(".")[0] for path in (tmp_path / "home").iterdir()] == ["out"]
    assert list((tmp_path / "here").iterdir()) == []


def test_the_tilde_of_nobody_is_a_name(tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = "~nobody-of-this-name/P.safetensors"
    assert tinylora("project", "--seed", 1, "-u", 3, "-r", 2, "-o", output).code == 0
    assert (tmp_path / output).is_file()


@pytest.mark.parametrize("name", WRITING)
def test_an_empty_output_is_none(tinylora: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    *words, last = WRITING[name]
    result = tinylora(*words, *(["--output="] if last.startswith("-o") else [last[: last.index("OUT")]]))
    assert (result.code, list(tmp_path.iterdir())) == (2, []), result


@pytest.mark.parametrize(
    "command", ["merge", "convert lora", "convert packed", "verify-base", "verify-seed", "verify-output"]
)
def test_the_weights_file_of_a_base_stands_for_it(
    tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """As an adapter's file stands for its directory: what is written and said is the same."""
    case, said = fixture("peft021-layers"), []
    if command == "verify-output":
        assert tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "out", "--manifest").code == 0
    for number, base in enumerate((case.base, next(case.base.glob("model.safetensors")))):
        out = tmp_path / str(number) / ("out.safetensors" if command.endswith("packed") else "out")
        more = [] if command.startswith("verify") else ["-o", out]
        of = [tmp_path / "out", case.adapter] if command == "verify-output" else [case.adapter]
        result = tinylora(*command.split(), *of, "--base", base, *more, "--json")
        assert result.code == 0, result
        report = json.loads(result.out.replace(str(tmp_path / str(number)), "where"))
        written = snapshot(tmp_path / str(number)) if more else None
        said.append(({k: v for k, v in report.items() if k not in ("seconds", "output")}, written))
    assert said[0] == said[1]


def test_a_shard_does_not_stand_for_its_base(complaint: Callable[..., str]) -> None:
    case = fixture("peft020-seed-only")
    shard = sorted(case.base.glob("*.safetensors"))[0]
    assert "is a weights file by itself" in complaint(1, "merge", case.adapter, "--base", shard, "-o", "OUT")
