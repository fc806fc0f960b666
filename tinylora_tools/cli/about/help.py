"""`tinylora help`: of a command, or of a word of the glossary."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from ..screens.paragraph import Span, labelled
from ..screens.terminal import print_lines, say, terminal_of
from ..shell.command import Command

GLOSSARY = Path(__file__).parents[2] / "data" / "glossary.json"


def _commands(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The commands of what is named so far."""
    at: click.Command | None = ctx.find_root().command
    for word in ctx.params.get("words") or ():
        at = at.get_command(ctx, word) if isinstance(at, click.Group) else None
    names = at.list_commands(ctx) if isinstance(at, click.Group) else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def glossary() -> dict[str, str]:
    """What each word means; several may mean the same."""
    told: dict[str, str] = json.loads(GLOSSARY.read_text("utf-8"))
    return {word: meaning for words, meaning in told.items() for word in words.split(", ")}


def _meaning(words: tuple[str, ...]) -> tuple[str, str] | None:
    """A word as the glossary has it, and what it means; None where it doesn't have it."""
    known, asked = glossary(), " ".join(words)
    found = next((word for word in known if word == asked), None)
    found = found or next((word for word in known if word.lower() == asked.lower()), None)
    return None if found is None else (found, known[found])


@click.command("help", cls=Command)
@click.argument("words", nargs=-1, metavar="[COMMAND...|WORD]", shell_complete=_commands)
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command, or what a word of the reports means.

    \b
    Examples:
      tinylora help convert lora
      tinylora help residual
    """
    at = ctx.find_root()
    first = at.command.get_command(at, words[0]) if words and isinstance(at.command, click.Group) else None
    if first is None and (meant := _meaning(words)) is not None:
        word, meaning = meant
        print_lines(labelled(Span(f"{word}: ", "bold"), meaning, terminal_of(sys.stdout).room.width, 2))
        return
    for word in words:
        group = at.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"{at.command_path} has no commands of its own.", at)
        _, found, _ = group.resolve_command(at, [word])
        if found is None:  # an option, say
            raise click.UsageError(f"No such command {word!r}.", at)
        at = click.Context(found, info_name=word, parent=at)
    say(at.get_help())
