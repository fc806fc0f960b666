"""Digests that an adapter's file holds of its own tensors, so that a bit that flips on the way is found and named.

In the metadata of the safetensors file, which PEFT doesn't read, stands one entry, `tinylora.sha256`: a JSON object
with `version`, 1, and `tensors`, which maps the name of every tensor in the file to the sha256 of its bytes, in hex. It
holds for the file that it stands in: who writes an adapter anew writes it anew (`renewed`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from .tensors import TensorFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY, VERSION = "tinylora.sha256", 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ON_PURPOSE = f"Get the file again. If it was changed on purpose, take {KEY} out of its metadata."


def recorded_in(file: TensorFile) -> Mapping[str, str]:
    """The digest of each of a file's tensors; none where it has no entry, or that of a newer release.

    Raises
    ------
    FormatError
        If the entry is damaged, or tells of other tensors than the file has.
    """
    text = file.metadata.get(KEY)
    if text is None:
        return {}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    entry = said if isinstance(said, dict) and type(said.get("version")) is int else {"version": 0}
    if entry["version"] > VERSION:
        return {}
    tensors = entry.get("tensors") if entry["version"] == VERSION else None
    if not isinstance(tensors, dict) or not all(isinstance(d, str) and _SHA256.fullmatch(d) for d in tensors.values()):
        raise FormatError(f"its metadata's {KEY} is damaged", where=file.path, hint=_ON_PURPOSE)
    if (other := min(tensors.keys() ^ file.tensors.keys(), default=None)) is not None:
        how = "wasn't there" if other in file.tensors else "is missing, which was there"
        raise FormatError(f"{other}: this tensor {how} when the file was written", where=file.path, hint=_ON_PURPOSE)
    return tensors


def renewed(metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Metadata with the digests of these tensors, in place of those of another file."""
    from hashlib import sha256  # brings OpenSSL's library

    import numpy as np

    digests = {
        name: sha256(np.asarray(array, order="C").reshape(-1).view(np.uint8).data).hexdigest()
        for name, array in sorted(tensors.items())
    }
    return {**metadata, KEY: json.dumps({"version": VERSION, "tensors": digests}, separators=(",", ":"))}


def without_digests(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata without those of another file."""
    return {name: text for name, text in metadata.items() if name != KEY}


def check_recorded(file: TensorFile, names: Iterable[str]) -> None:
    """Raise FormatError where one of these tensors isn't as it was recorded, reading them through for it; of a file
    that records nothing, nothing is read."""
    if KEY in file.metadata:
        for name in names:
            for _ in file.pieces(name):
                pass


def not_as_recorded(name: str, path: Path) -> FormatError:
    """What to say of a tensor whose bytes have another digest."""
    return FormatError(
        f"{name}: its bytes aren't those that were recorded when the file was written: it is damaged, or was changed",
        where=path,
        hint=_ON_PURPOSE,
    )
