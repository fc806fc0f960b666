"""`tinylora help`, and what every command's help promises."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixture_data import ROOT, fixture
from torch_streams import remembering

from tinylora_tools import merge, pack
from tinylora_tools.cli.about.help import GLOSSARY, glossary
from tinylora_tools.cli.convert import FORMS
from tinylora_tools.cli.main import ABOUT, COMMANDS, group
from tinylora_tools.cli.shell.command import Command
from tinylora_tools.ops.verify import machine

Run = Callable[..., Any]

PACKAGE = GLOSSARY.parents[1]
NAMES = [*COMMANDS, *ABOUT, *(f"convert {form}" for form in FORMS)]


def shown(name: str) -> str:
    return CliRunner().invoke(group, [*name.split(), "--help"], prog_name="tinylora", terminal_width=80).output


def examples(name: str) -> list[str]:
    return re.findall(r"^    (tinylora .*)$", shown(name), re.M)


@pytest.mark.parametrize("name", NAMES)
def test_help_opens_with_a_sentence_and_two_examples(name: str) -> None:
    usage, sentence, *rest = shown(name).split("\n\n")
    assert usage.startswith(f"Usage: tinylora {name} [OPTIONS]")
    assert sentence.strip().endswith(".")
    assert rest[0].startswith("  Examples:\n    tinylora ")
    assert len(examples(name)) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_80_columns(name: str) -> None:
    assert [line for line in shown(name).splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "convert"])
def test_options_are_explained_and_in_groups(name: str) -> None:
    at: Any = group
    for word in name.split():
        at = at.get_command(None, word)
    assert isinstance(at, Command)
    assert all(option.help for option in at.params if option.param_type_name == "option")
    if "--device" in shown(name):
        assert re.search(r"^How it computes:\n(?:  .*\n)*  --device", shown(name), re.M)
    assert name == "help" or re.search(r"^What it shows:\n(?:  .*\n)*  -h, --help", shown(name), re.M)


def test_defaults_are_shown() -> None:
    text = " ".join(shown("merge").split())
    for default in ("auto", "untie", "cpu", "verify-base", "table"):
        assert f"[default: {default}]" in text


@pytest.mark.parametrize("name", ["merge", "convert", "convert lora", ""])
def test_help_is_the_same_either_way(tinylora: Run, name: str) -> None:
    assert tinylora("help", *name.split()).out == tinylora(*name.split(), "--help").out


def test_help_of_what_there_is_not(tinylora: Run) -> None:
    for words, said in (
        (["insepct"], "Did you mean inspect?"),
        (["merge", "x"], "no commands of its own"),
        (["--x"], "--x"),
    ):
        result = tinylora("help", *words)
        assert (result.code, said in result.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["residual"], "residual: How far factors are from being a weight's triplets"),
        (["rho"], "rho: How far factors are"),
        (["module", "order"], "module order: See index."),
        (["r"], "r: The rank:"),
        (["R"], "R: The matrix (r, r) in the middle"),
        (["Stream"], "stream: The arithmetic that turns a seed into P"),
    ],
    ids=str,
)
def test_help_of_a_word(tinylora: Run, words: list[str], said: str) -> None:
    result = tinylora("help", *words)
    assert (result.code, " ".join(result.out.split()).startswith(said)) == (0, True), result
    assert "](" not in result.out


def test_every_word_that_screens_point_to_is_explained() -> None:
    code = "".join(path.read_text() for path in (PACKAGE / "cli").glob("*.py"))
    pointers = re.findall(r"`tinylora help (\w+)`((?:, or \w+)*), tells what a column is", code)
    words = [word for first, more in pointers for word in (first, *re.findall(r"or (\w+)", more))]
    assert len(words) > 5
    assert {*words} <= glossary().keys()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with all that examples name."""
    case, old = fixture("peft021-13-numbers"), fixture("peft019-seed-only")
    monkeypatch.chdir(tmp_path)
    for name, source in (
        ("Qwen2.5-0.5B", case.base), ("Mine-7B", case.base), ("adapter", case.adapter), ("first", case.adapter),
        ("second", case.adapter), ("old-adapter", fixture("peft021-pickled").adapter),
    ):  # fmt: skip
        shutil.copytree(source, name)
    (tmp_path / "fixtures").symlink_to(ROOT)  # which the adapters name as their base's
    merge("adapter", "merged", manifest=True)
    pack("adapter", "packed.safetensors", base="Qwen2.5-0.5B")
    assert old.merged is not None
    return tmp_path


@pytest.mark.usefixtures("inbox")
@pytest.mark.parametrize("name", NAMES)
def test_examples_run(tinylora: Run, place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other; what they write is in nobody's way. What torch draws is the same each time."""
    monkeypatch.setattr(machine, "_drawn_by_torch", remembering())
    for line in examples(name):
        program, *words = shlex.split(line)
        if "old-adapter" in words and "--against" in words:  # a PEFT 0.19 adapter and its own base
            old = fixture("peft019-seed-only")
            stands = {"old-adapter": old.adapter, "merged": old.merged, "Qwen2.5-0.5B": old.base}
            words = [str(stands.get(word, word)) for word in words]
        elif "-o" in words:
            output = place / words[words.index("-o") + 1]
            shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
        if "peft packed.safetensors" in line and not (place / "packed.safetensors").exists():
            pack("first", "packed.safetensors", base="Qwen2.5-0.5B")
        result = tinylora(*words)
        differs = words[:2] == ["diff", "merged"] and "--adapter" not in words
        assert (program, result.code) == ("tinylora", int(differs)), result
        if "-o" in words and words[0] == "init":
            shutil.rmtree(place / "adapter")
