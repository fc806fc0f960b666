"""Adapters of any form, with what is said of those of other projects."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from ..options import (
    SOURCE,
    Decorator,
    Setting,
    all_of,
    base_option,
    cache_option,
    device_option,
    force_option,
    numbering_options,
    output_option,
    output_options,
    release_option,
    scale_option,
    stream_option,
    threads_option,
)
from ..shell.pushing import push_option

if TYPE_CHECKING:
    from ...adapters.source import Source

_FORMS = ("peft", "packed", "anrgusc", "chi-shan0707", "cho104", "curiouscaliboi", "guokaku", "spuuntries")


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What adapters are, and what their files don't say; the command gets `find`, which makes a path a `Source`."""

    @wraps(function)
    def run(
        *arguments: Any,
        kind: str | None,
        settings: tuple[tuple[str, str], ...],
        projection: str | None,
        against: str | None,
        **given: Any,
    ) -> Any:
        def find(path: str) -> Source:
            from ...adapters.source import find_source

            return find_source(path, kind=kind, settings=dict(settings), projection=projection, against=against)

        return function(*arguments, find=find, **given)

    return all_of(
        click.option(
            "--from",
            "kind",
            type=click.Choice(_FORMS),
            metavar="FORM",
            help=f"Insist on what ADAPTER is: {', '.join(_FORMS)}. Default: what its files tell.",
        ),
        numbering_options,
        click.option(
            "--setting",
            "settings",
            multiple=True,
            type=Setting(),
            metavar="NAME=VALUE",
            help="Another project's adapter: what its files don't say, such as rank=2. Repeat for more.",
        ),
        click.option(
            "--projection",
            type=SOURCE,
            metavar="FILE",
            help="Another project's adapter: a file with its P, where that is lost.",
        ),
        click.option(
            "--against",
            type=SOURCE,
            metavar="MERGED",
            help="Another project's adapter: a checkpoint that it was merged into, which tells the signs of singular "
            "pairs.",
        ),
    )(run)


def sum_options(metavar: str, about: str, *own: Decorator) -> Decorator:
    """Of a command that writes the sum of several adapters as one: `own` are its options besides."""
    return all_of(
        click.argument("adapters", nargs=-1, required=True, type=SOURCE, metavar="ADAPTER..."),
        output_option(metavar, about),
        base_option,
        source_options,
        release_option,
        scale_option,
        *own,
        stream_option,
        device_option,
        threads_option,
        cache_option,
        force_option,
        output_options,
        push_option,
    )
