"""`tinylora help`."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from ..screens.terminal import say
from ..shell.command import Command


def _commands(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The commands of what is named so far."""
    at: click.Command | None = ctx.find_root().command
    for word in ctx.params.get("words") or ():
        at = at.get_command(ctx, word) if isinstance(at, click.Group) else None
    names = at.list_commands(ctx) if isinstance(at, click.Group) else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command("help", cls=Command)
@click.argument("words", nargs=-1, metavar="[COMMAND...]", shell_complete=_commands)
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command.

    \b
    Examples:
      tinylora help merge
      tinylora help convert lora
    """
    at = ctx.find_root()
    for word in words:
        group = at.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"{at.command_path} has no commands of its own.", at)
        _, found, _ = group.resolve_command(at, [word])
        if found is None:  # an option, say
            raise click.UsageError(f"No such command {word!r}.", at)
        at = click.Context(found, info_name=word, parent=at)
    say(at.get_help())
