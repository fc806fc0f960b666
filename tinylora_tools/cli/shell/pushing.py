"""What a command has that pushes what it wrote."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import FormatError, TinyLoraError
from ...ranks import ranks
from ..options import all_of
from ..output import Output, print_error

if TYPE_CHECKING:
    from ...ops.push.run import PushReport


class RepositoryName(click.ParamType):  # type: ignore[type-arg]
    """A repository on the Hub to write to."""

    name = "repository"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ...sources.upload import target

        try:
            target(value)
        except FormatError as error:
            self.fail(f"{value!r} {error.what}. Write owner/name.", param, ctx)
        return str(value)


REPOSITORY = RepositoryName()


def say(report: PushReport) -> str:
    """Where what was pushed is."""
    return f"Pushed {report.source} to {report.pull_request or report.url}"


def push_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--push-to-hub and --private, of a command that writes `output`: whether one may write there is asked before it
    begins, and what it wrote stays where the push fails."""

    @wraps(function)
    def run(*arguments: Any, push_to_hub: str | None, private: bool, output: Path, out: Output, **given: Any) -> Any:
        if push_to_hub is None:
            if private:
                raise click.UsageError("--private is for --push-to-hub.")
            return function(*arguments, output=output, out=out, **given)
        if given.get("dry_run"):
            raise click.UsageError("--dry-run writes nothing, so that there is nothing for --push-to-hub.")
        from ...sources.upload import require_login, target

        require_login(target(push_to_hub))
        result = function(*arguments, output=output, out=out, **given)
        if ranks().number:
            return result
        from ...ops.push.run import push

        try:
            report = push(output, push_to_hub, private=private)
            out.talk(say(report))
            for text in report.warnings:
                out.warn(text)
        except (TinyLoraError, OSError) as caught:
            error = caught if isinstance(caught, TinyLoraError) else TinyLoraError(str(caught))
            again = shlex.join(["tinylora", "push", str(output), push_to_hub, *(["--private"] if private else [])])
            hint = f"{error.hint or ''} {output} is written; push it with `{again}`.".lstrip()
            failed = TinyLoraError(error.what, where=error.where, hint=hint)
            print_error(failed, as_json=False)  # the report is on stdout, and is the only one there
            return 1
        return result

    return all_of(
        click.option(
            "--push-to-hub",
            type=REPOSITORY,
            metavar="OWNER/NAME",
            help="Push what is written to the Hub, as `tinylora push` does.",
        ),
        click.option("--private", is_flag=True, help="What a repository that --push-to-hub makes becomes."),
    )(run)
