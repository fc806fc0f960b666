"""The command group, and the one place where errors become messages.

Commands are imported when they run: `tinylora --help` costs neither NumPy nor torch.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import TinyLoraError
from ..inputs import watching_inputs
from ..ranks import OtherRankFailedError, joined
from ..wording import worded_by
from ..workers import some_are_left
from .output import print_error, print_json
from .screens.paragraph import paragraph
from .screens.terminal import print_lines, terminal_of
from .shell.explained import NO_MORE_THREADS, explained
from .shell.groups import LazyGroup
from .shell.process import end_on_signals, keep_standard_streams, leave, may_start_threads
from .shell.wording import OptionWords

#: Command name to its module in this package and its one line of help.
COMMANDS = {
    "inspect": ("inspect", "Show what is in an adapter or a checkpoint."),
    "merge": ("merge", "Merge adapters into their base checkpoint."),
    "factor": ("factor", "Compute and store singular triplets of a base's weights."),
    "count": ("count", "Count what an adapter of a base would train and store."),
    "init": ("init", "Make a new adapter of a base, as PEFT would."),
    "verify-base": ("verify_base", "Verify that an adapter's factors belong to a base."),
    "convert": ("convert", "Convert adapters into other forms: LoRA, PEFT, packed."),
    "diff": ("diff", "Compare two adapters or two checkpoints."),
    "push": ("push", "Publish a model or an adapter on the Hub, with a card."),
    "project": ("project", "Draw projections from a seed, or store an adapter's."),
    "architecture": ("architecture", "Describe a base's model from the installed transformers."),
    "verify-output": ("verify_output", "Verify a merged model by its manifest."),
    "verify-seed": ("verify_seed", "Verify that projections reproduce, here or in an adapter."),
}

#: Commands about this program itself.
ABOUT = {
    "doctor": ("about.doctor", "Show what this machine has, to paste into a bug report."),
    "cache": ("about.cache", "Show what is kept of packed adapters' factors, or remove it."),
    "completion": ("about.completion", "Print what makes a shell complete commands, options and files."),
    "help": ("about.help", "Show the help of a command."),
}


class _ReaderGoneError(Exception):
    """Whoever read stdout has gone; click itself would answer with exit code 1."""


class _Root(LazyGroup):
    """The command line as a whole."""

    def make_context(self, *arguments: Any, **given: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **given)
        except BrokenPipeError:
            raise _ReaderGoneError from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            raise _ReaderGoneError from None


@click.group(
    cls=_Root,
    members=COMMANDS | ABOUT,
    package=__package__,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(__version__, "-V", "--version", prog_name="tinylora", message="%(prog)s %(version)s")
def group() -> None:
    """Inspect, merge and verify TinyLoRA adapters (arXiv:2602.04118), as Hugging Face PEFT writes them.

    Every command reads local paths, or Hub repositories written hf://owner/name[@revision]. `tinylora help COMMAND`
    shows what one does, with examples, and `tinylora help WORD` what a word of the reports means.
    """


def main() -> NoReturn:
    """Run the command line. Exit codes: 0; 1 for what this program, the system or its limits refuse; 2 for wrong usage;
    130 for an interrupt, 143 and 129 for other requests to end; 141 where the reader of stdout has gone."""
    try:
        _main(_wants_json(sys.argv[1:]))
    except SystemExit as ended:
        if some_are_left():  # Python waits for threads, or ends them in the middle of what they do
            leave(ended.code)
        raise


def _main(as_json: bool) -> NoReturn:
    try:
        keep_standard_streams()
        end_on_signals()
        try:
            with worded_by(OptionWords()), watching_inputs(), joined() as together:
                result = group(prog_name="tinylora", standalone_mode=False)
            sys.stdout.flush()
            sys.exit(result if isinstance(result, int) and not together.number else 0)
        except click.ClickException as error:
            if as_json:
                print_json({"error": {"message": error.format_message(), "where": None, "hint": None}})
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort) as error:
            if not may_start_threads():  # OpenBLAS interrupts the process that it lives in, where it can't
                print_error(NO_MORE_THREADS, as_json=as_json)
                sys.exit(1)
            kept = str(error.__cause__ or error) or "nothing half-written was kept"  # click wraps the interrupt
            print_lines(paragraph(f"Interrupted; {kept}.", terminal_of(sys.stderr).room.width), err=True)
            sys.exit(130)
        except (TinyLoraError, OSError, MemoryError, ImportError, RuntimeError) as error:
            said = explained(error)
            if said is None:
                raise
            print_error(said, as_json=as_json)
            sys.exit(1)
    except OtherRankFailedError:
        sys.exit(1)
    except KeyboardInterrupt:  # before anything began, or again, while it is said
        sys.exit(130)
    except (_ReaderGoneError, BrokenPipeError):
        # The reader has gone (`tinylora inspect ... | head`): so has the need for the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # of stdout or stderr itself
        _end_unheard(error)


def _wants_json(words: Sequence[str]) -> bool:
    """Whether errors are to be JSON too; asked of the words alone, for they may be what is wrong."""
    pairs = itertools.pairwise(words)
    return "--json" in words or "--format=json" in words or ("--format", "json") in pairs


def _end_unheard(error: OSError) -> NoReturn:
    """End where a message can't be printed: try once more on stderr, and leave nothing for Python to flush."""
    with suppress(OSError):
        os.write(2, f"error: stdout or stderr can't be written ({error.strerror})\n".encode())
    os._exit(1)
