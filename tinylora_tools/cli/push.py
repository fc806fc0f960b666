"""`tinylora push`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .options import SOURCE, output_options
from .output import Output
from .screens.blocks import Block, Text
from .screens.words import plural, size
from .shell.command import Command
from .shell.pushing import REPOSITORY, say

if TYPE_CHECKING:
    from ..ops.push.run import PushReport


@click.command("push", cls=Command)
@click.argument("path", type=SOURCE, metavar="PATH")
@click.argument("repository", type=REPOSITORY, metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="What a repository that is made becomes.")
@click.option("--revision", metavar="BRANCH", help="Where to; made if it isn't there. Default: main.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead.")
@click.option("--message", metavar="TEXT", help="The commit's.")
@click.option("--base-model", metavar="NAME", help="The base's repository, for the card of an adapter without it.")
@output_options
def command(out: Output, **given: Any) -> None:
    """Publish a model or an adapter on the Hub, with a card.

    PATH is a directory that merge, init or convert wrote, or that PEFT saved, or a packed or GGUF adapter's file. All
    of it is pushed but hidden files and what a training left; a card (README.md) is made of an adapter without one. It
    takes an account: `hf auth login`, or HF_TOKEN.

    \b
    Examples:
      tinylora push merged you/model --private
      tinylora push adapter you/adapter --create-pr
    """
    from ..ops.push.run import push

    out.report(push(**given), _render)


def _render(report: PushReport) -> Iterator[Block]:
    yield Text(say(report))
    card = "the card, README.md, was made of it" if report.card == "made" else "the card is its own README.md"
    yield Text(f"{plural(len(report.files), 'file')}, {size(report.bytes_pushed)}; {card}", indent=2)
