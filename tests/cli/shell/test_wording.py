"""Messages name what a caller can change: as options here, as arguments in Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

import tinylora_tools
from tinylora_tools.cli.main import group
from tinylora_tools.cli.shell.wording import OptionWords
from tinylora_tools.wording import argument, call, worded_by

PACKAGE = Path(tinylora_tools.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

#: The module that tells of the two ways shows one of each.
SHOWS_AN_OPTION = {"wording.py", "formats/serving/engines.py", "ops/push/cards.py"}  # other programs', in the latter


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("base", ..., "--base DIR"),
        ("module_order", ..., "--module-order FILE"),
        ("record_to", ..., "--record FILE"),
        ("against", ..., "--against MERGED"),
        ("scale", ..., "--scale VALUE"),
        ("release", "5", "--transformers 5"),
        ("server", "vllm", "--for vllm"),
        ("kind", "packed", "--from packed"),
        ("dtype", "float32", "--dtype float32"),
        ("scale", 0.5, "--scale 0.5"),
        ("scale", 2.0, "--scale 2"),
        ("verify_base", False, "--no-verify-base"),
        ("save_projection", True, "--save-projection"),
        ("settings", {"rank": 2, "alpha": ...}, "--setting rank=2 --setting alpha=VALUE"),
    ],
)
def test_arguments_with_values(name: str, value: object, typed: str) -> None:
    with worded_by(OptionWords()):
        assert argument(name, value) == typed


def test_calls_are_whole_command_lines() -> None:
    with worded_by(OptionWords()):
        assert call("merge", "a", "MERGED", dtype="float32") == "tinylora merge a -o MERGED --dtype float32"
        assert call("to_peft", "a", "ADAPTER", base=...) == "tinylora convert peft a -o ADAPTER --base DIR"
        assert call("to_lora", "a") == "tinylora convert lora a"
        assert call("pack", "a", "o", exact=True) == "tinylora convert packed a -o o --exact"
        assert call("verify_seed", record_to=...) == "tinylora verify-seed --record FILE"


def test_words_are_options_only_meanwhile() -> None:
    with pytest.raises(ValueError, match=r"^--base$"), worded_by(OptionWords()):
        raise ValueError(argument("base"))
    assert argument("base") == "base"


def _worded() -> set[tuple[str, str]]:
    """Where in the package an argument is named: its module's path, and the argument's name."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == "argument" and node.args and isinstance(node.args[0], ast.Constant):
                    found.add((str(path.relative_to(PACKAGE)), str(node.args[0].value)))
                elif node.func.id == "call":
                    found |= {(str(path.relative_to(PACKAGE)), k.arg) for k in node.keywords if k.arg}
    return found


def test_every_argument_that_messages_name_is_an_option() -> None:
    context, options = click.Context(group), set[str]()
    commands: list[click.Command] = [group]
    for command in commands:
        options |= {one for p in command.params for one in (*p.opts, *p.secondary_opts)}
        if isinstance(command, click.Group):
            members = (command.get_command(context, name) for name in command.list_commands(context))
            commands += [member for member in members if member is not None]
    named = _worded()
    assert len(named) > 20
    assert {(where, name) for where, name in named if OptionWords().argument(name) not in options} == set()


@pytest.mark.parametrize(
    "path",
    sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "cli"),
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_options_are_named_by_the_command_line_alone(path: Path) -> None:
    """A Python caller has no options: below, messages and docstrings name arguments."""
    if str(path.relative_to(PACKAGE)) in SHOWS_AN_OPTION:
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert OPTION.findall(node.value) == [], f"{path.name}:{node.lineno}"
