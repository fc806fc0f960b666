"""What can go wrong for reasons outside this program.

::

    TinyLoraError
    ├── FormatError        a file is damaged, or isn't what it says it is
    ├── MismatchError      files that are sound by themselves don't belong together
    ├── UndeterminedError  the answer isn't in the files that were given (module order, a lost seed)
    ├── UnsupportedError   understood, and refused by name (a quantized weight, a tie that can't be undone)
    └── OutputError        the result has no place to go (it exists, the disk is full)

The command line turns these, and what the operating system says of a file (OSError), into a message and exit code 1.
Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path


class TinyLoraError(Exception):
    """A message for a person: where it happened, what is wrong, and what to do next.

    Parameters
    ----------
    what : str
        What is wrong, expected against found.
    where : str or Path, optional
        The file or the module that it is about.
    hint : str, optional
        The next step.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(what if self.where is None else f"{self.where}: {what}")


class FormatError(TinyLoraError):
    """A file is damaged, or isn't what it says it is."""


class MismatchError(TinyLoraError):
    """Files that are sound by themselves don't belong together."""


class UndeterminedError(TinyLoraError):
    """The answer isn't in the files that were given."""


class UnsupportedError(TinyLoraError):
    """Understood, and refused by name."""


class OutputError(TinyLoraError):
    """The result has no place to go."""
