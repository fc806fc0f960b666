"""The command group, and the one place where errors become messages.

Commands are imported when they run: `tinylora --help` costs neither NumPy nor torch.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from .. import __version__
from ..errors import TinyLoraError
from .output import printable

#: Command name to its module in this package and its one line of help.
COMMANDS = {
    "inspect": ("inspect", "Show what is in an adapter or a checkpoint."),
    "merge": ("merge", "Merge adapters into their base checkpoint."),
    "factor": ("factor", "Compute and store singular triplets of a base's weights."),
    "count": ("count", "Count what an adapter of a base would train and store."),
    "init": ("init", "Make a new adapter of a base, as PEFT would."),
    "verify-base": ("verify_base", "Verify that an adapter's factors belong to a base."),
    "convert": ("convert", "Convert adapters into other forms: LoRA, PEFT, packed."),
    "project": ("project", "Draw projections from a seed, or store an adapter's."),
    "verify-seed": ("verify_seed", "Verify that projections reproduce, here or in an adapter."),
}


class _LazyGroup(click.Group):
    """A group that imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="tinylora", message="%(prog)s %(version)s")
def group() -> None:
    """Inspect, merge and verify TinyLoRA adapters (arXiv:2602.04118), as Hugging Face PEFT writes them.

    Every command reads local paths, or Hub repositories written hf://owner/name[@revision].
    """


def main() -> NoReturn:
    """Run the command line. Exit codes: 0, 1 for a TinyLoraError or an OSError, 2 for wrong usage, 130 for an
    interrupt."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = group(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except TinyLoraError as error:
        _fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        kept = printable(str(error.__cause__ or error)) or "nothing was kept"  # click wraps the interrupt
        click.echo(f"Interrupted; {kept}.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone (`tinylora inspect ... | head`): so has the need for the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _fail(_explained(error))


def _fail(error: TinyLoraError) -> NoReturn:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(printable(str(error)), err=True)
    if error.hint:
        click.secho("  next: ", bold=True, nl=False, err=True)
        click.echo(printable(error.hint), err=True)
    sys.exit(1)


def _explained(error: OSError) -> TinyLoraError:
    """What the operating system says, of a file where it names one."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return TinyLoraError(f"reading or writing failed ({reason})", hint="Check the disk and its free space.")
    return TinyLoraError(
        f"can't be used ({reason})",
        where=os.fsdecode(error.filename),
        hint="Check that the path is right and that you have access to it.",
    )


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)
