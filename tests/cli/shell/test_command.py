"""Help in the order in which it is needed; `tests/cli/about/test_help.py` has what all commands' help promises."""

from __future__ import annotations

import click
from click.testing import CliRunner

from tinylora_tools.cli.shell.command import SECTIONS, Command


def test_sentence_examples_details_options() -> None:
    @click.command("made", cls=Command)
    @click.option("--own", help="Its own.")
    @click.option("--device", help="Where.")
    def made(**_: object) -> None:
        """Make it.

        Details that
        are wrapped.

        \b
        Examples:
          tinylora made
        """

    text = CliRunner().invoke(made, ["--help"], terminal_width=60).output
    parts = [
        "Make it.",
        "Examples:\n    tinylora made\n",
        "Details that are wrapped.",
        "Options:\n  --own",
        "How it computes:",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_no_parameter_is_in_two_groups() -> None:
    names = [name for of in SECTIONS.values() for name in of]
    assert len(names) == len(set(names))
