"""Where a command takes an adapter of any kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..adapters.third_party_options import ForeignOptions
    from ..progress import Progress


@contextmanager
def as_adapter(
    path: Path,
    base: Path | None,
    *,
    output: Path | None = None,
    kind: str | None = None,
    options: ForeignOptions | None = None,
    notes: list[str] | None = None,
    quiet: bool = False,
) -> Iterator[Path]:
    """The path of an adapter in PEFT's form, as `ops.adapter_source.in_peft_form`, with a bar while that is made; what
    to know of it is added to `notes`."""
    from ..adapters.source import PEFT, adapter_kind, in_peft_form
    from ..progress import NoProgress
    from .process import keep_freed_memory

    with ExitStack() as stack:
        bar: AbstractContextManager[Progress] = nullcontext(NoProgress())
        if adapter_kind(path) != PEFT:
            keep_freed_memory()
            if sys.stderr.isatty() and not quiet:
                from .progress import byte_progress

                bar = byte_progress("Factoring")
        with bar as progress:
            source, found = stack.enter_context(
                in_peft_form(path, base, output=output, kind=kind, options=options, progress=progress)
            )
        if notes is not None:
            notes.extend(found)
        yield source
