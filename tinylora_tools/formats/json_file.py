"""JSON files of people and libraries: read with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..inputs import open_input

#: The largest file that is read: as large as the header of a safetensors file may be.
MOST_BYTES = 100_000_000


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises
    ------
    FormatError
        If the file holds anything else, or is too large for one.
    """
    with open_input(path) as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        what = f"is larger than {MOST_BYTES:,} bytes, too large for JSON of a model"
        raise FormatError(what, where=path, hint="Restore the file.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not valid JSON ({error})", where=path, hint="Restore the file.") from None
    if not isinstance(value, dict):
        raise FormatError(f"holds a JSON {type(value).__name__}, expected an object", where=path)
    return value
