"""JSON files of people and libraries: read with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..inputs import read_input


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises
    ------
    FormatError
        If the file holds anything else.
    """
    try:
        value = json.loads(read_input(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not valid JSON ({error})", where=path, hint="Restore the file.") from None
    if not isinstance(value, dict):
        raise FormatError(f"holds a JSON {type(value).__name__}, expected an object", where=path)
    return value
