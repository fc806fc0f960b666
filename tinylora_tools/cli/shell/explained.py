"""What went wrong for reasons outside this program, as messages."""

from __future__ import annotations

import os
import re

from ...errors import TinyLoraError

#: The libraries that this package stands on, and what installs them; torch as small as it is to be had.
LIBRARIES = {
    "huggingface_hub": "pip install huggingface_hub",
    "ml_dtypes": "pip install ml_dtypes",
    "numpy": "pip install numpy",
    "rich": "pip install rich",
    "safetensors": "pip install safetensors",
    "torch": "pip install torch --index-url https://download.pytorch.org/whl/cpu (a CPU is enough for every command)",
    "transformers": "pip install transformers",
}

#: What libraries say of limits in errors that have no type of their own.
_NO_MEMORY = re.compile(r"not enough memory|[Cc]an.?t allocate memory|Cannot allocate memory|bad_alloc|map segment")
_NO_THREADS = re.compile(r"can't start new thread|Resource temporarily unavailable|pthread_create")

NO_MORE_THREADS = TinyLoraError(
    "the system allows no more threads", hint="Raise the limit (ulimit -u), or end other programs."
)


def explained(error: Exception) -> TinyLoraError | None:
    """What went wrong for reasons outside this program, as a message; None for a bug."""
    if isinstance(error, (TinyLoraError, BrokenPipeError)):
        return error if isinstance(error, TinyLoraError) else None
    if isinstance(error, OSError):
        return _said_by_the_system(error)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return TinyLoraError("there isn't enough memory", hint="Free some, or raise the limit (ulimit -v).")
    if isinstance(error, ImportError):
        return _said_of_a_library(error)
    if _NO_THREADS.search(str(error)):
        return NO_MORE_THREADS
    return None


def _said_of_a_library(error: ImportError) -> TinyLoraError:
    """A library that isn't installed, by the command that installs it; or what is wrong with one that is."""
    name = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and name in LIBRARIES:
        hint = f"Install it: {LIBRARIES[name]}"
        return TinyLoraError(f"this needs {name}, which isn't installed", hint=hint)
    return TinyLoraError(
        f"a library can't be loaded: {str(error).splitlines()[0]}",
        hint="Install tinylora-tools anew; if the message is about memory, raise the limit (ulimit -v).",
    )


def _said_by_the_system(error: OSError) -> TinyLoraError:
    """What the operating system says, of a file where it names one."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return TinyLoraError(f"reading or writing failed ({reason})", hint="Check the disk and its free space.")
    return TinyLoraError(
        f"can't be used ({reason})",
        where=os.fsdecode(error.filename),
        hint="Check that the path is right and that you have access to it.",
    )
