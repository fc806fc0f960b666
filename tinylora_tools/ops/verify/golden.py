"""Golden files: what was drawn on one machine, to be checked on another."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ...core.compare import digest
from ...errors import FormatError
from ...formats.json_file import read_object
from ...output.staging import staged_file
from ...wording import call
from .check import Check
from .machine import golden

FORMAT, VERSION = "tinylora-golden", 1

#: What to do where a machine doesn't draw what another did.
_DIFFERS = (
    "Adapters that store P (save_projection) don't depend on who draws it. For one that doesn't, name the stream of "
    "the machine that trained it where it is used."
)


def record(checks: Sequence[Check], path: Path, *, force: bool) -> None:
    """Write the digests of what the checks drew, with the machine and the versions that drew them."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "made_by": f"tinylora-tools {__version__}",
        "machine": {"system": platform.system(), "processor": platform.machine(), "python": platform.python_version()},
        "notes": {_key(check): check.note for check in checks if check.digest and check.note},
        "digests": {_key(check): check.digest for check in checks if check.digest},
    }
    with staged_file(path, force=force) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def compare(checks: Sequence[Check], path: Path) -> list[Check]:
    """One check for each digest of a golden file.

    Raises
    ------
    FormatError
        For a file of another kind or version.
    """
    content = read_object(path)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        found = f"{content.get('format')!r} of version {content.get('version')!r}"
        raise FormatError(
            f"{found}, expected {FORMAT!r} of version {VERSION}",
            where=path,
            hint=f"Record it again with this release: {call('verify_seed', record_to=...)}.",
        )
    digests: Any = content.get("digests")
    notes: Any = content.get("notes") or {}
    for field, value in (("digests", digests), ("notes", notes)):
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise FormatError(f"its {field} aren't a map from names to texts", where=path, hint="Record it again.")
    here = {_key(check): check for check in checks if check.digest}
    streams = {digest(values): stream for stream, values in golden()[1].items()}
    results = []
    for name, recorded in sorted(digests.items()):
        mine = here.get(name)
        if mine is None:
            # Another CPU has other capabilities; what was asked for is that the common ones agree.
            continue
        same = mine.digest == recorded
        note = "as recorded"
        if not same:
            was, now = streams.get(recorded), streams.get(mine.digest or "")
            note = f"recorded {was or recorded[:16]}, here {now or (mine.digest or '')[:16]}"
            note += f" (recorded with {notes[name]})" if name in notes else ""
        results.append(
            Check(
                f"golden: {name}", mine.device, mine.stream, same, same, mine.max_ulp, mine.max_abs, note,
                hint=None if same else _DIFFERS,
            )
        )  # fmt: skip
    if not results:
        raise FormatError(
            "none of its digests is of a check that ran here",
            where=path,
            hint="Was it recorded for another adapter, or without one? Check it the way it was recorded.",
        )
    return results


def _key(check: Check) -> str:
    return f"{check.name}, {check.stream}" if check.name in ("stored P", "drawn P") else check.name
