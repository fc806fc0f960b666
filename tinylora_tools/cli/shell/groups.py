"""Groups of commands, each imported when it runs; what was mistyped is told with what may have been meant."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import click

from .command import write_help


class LazyGroup(click.Group):
    """A group that imports a command's module only to run it or to show its own help."""

    def __init__(
        self, *arguments: Any, members: dict[str, tuple[str, str]], package: str | None = None, **given: Any
    ) -> None:
        super().__init__(*arguments, **given)
        self.members, self._package = members, package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.members:
            return None
        module = importlib.import_module(f".{self.members[cmd_name][0]}", self._package)
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.members and not name.startswith("-"):
            raise click.UsageError(f"No such command {name!r}.{self._meant(name)}", ctx)
        return super().resolve_command(ctx, args)

    def _meant(self, name: str) -> str:
        """What a command that there isn't may have been."""
        close = [known for known in self.members if name and known.startswith(name)]
        close = close or difflib.get_close_matches(name.lower().replace("_", "-"), self.members, n=1)
        return f" Did you mean {' or '.join(close)}?" if close else ""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_help(self.help or "", formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.members.items()])
