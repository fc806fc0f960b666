"""What the tests beside this try is every command that writes."""

from __future__ import annotations

from collections.abc import Iterator

import click
from trust.runs import COMMANDS

from tinylora_tools.cli.main import group


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command by its words; groups are looked into."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


def options(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def tried(name: str) -> set[str]:
    """The words that a command is tried with."""
    return {word for words in COMMANDS.values() if " ".join(words).startswith(f"{name} ") for word in words}


def test_what_can_replace_a_file_is_tried() -> None:
    """--force belongs to every command that writes."""
    writing = {name for name, command in leaves(group) if "--force" in options(command)}
    assert writing == {" ".join(words[: 2 if words[0] == "convert" else 1]) for words in COMMANDS.values()}


def test_every_option_that_names_an_output_or_adds_to_it_is_tried() -> None:
    found = [
        (name, option)
        for name, command in leaves(group)
        for option in options(command) & {"-o", "--record", "--manifest"}
    ]
    assert len(found) > 9
    assert [(name, option) for name, option in found if option not in tried(name)] == []
