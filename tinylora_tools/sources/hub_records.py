"""What the Hub recorded of a file that came from it.

The Hub names each file's content by a digest: sha256 where it is stored by Git LFS or Xet, as weights are, and Git's
own sha1 elsewhere. huggingface_hub calls the file in its cache so (`models--owner--name/blobs/<digest>`, to which a
snapshot has links), and notes it beside what it downloads into a directory (`.cache/huggingface/download/<file>
.metadata`: commit, digest and time, a line each).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..inputs import open_input

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PIECE = 4 << 20


@dataclass(frozen=True, slots=True)
class HubRecord:
    """A file's digest, in hex, as it was recorded: sha256, or sha1 of what Git stores."""

    digest: str

    def is_of(self, path: Path) -> bool:
        """Whether a file has that digest."""
        found = hashlib.sha256()
        if len(self.digest) == 40:
            found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        for piece in _pieces(path):
            found.update(piece)
        return found.hexdigest() == self.digest


def hub_record(path: Path, directory: Path) -> HubRecord | None:
    """What is recorded of a file in a model's directory; None where it didn't come from the Hub, or that isn't told."""
    resolved = Path(os.path.realpath(path))
    if resolved.parent.name == "blobs" and _DIGEST.fullmatch(resolved.name):
        return HubRecord(resolved.name)
    try:
        note = directory / ".cache" / "huggingface" / "download" / f"{path.relative_to(directory)}.metadata"
        with open_input(note) as file:
            lines = file.read(1000).decode("ascii", "replace").split("\n")
    except (OSError, ValueError):
        return None
    said = lines[1].strip() if len(lines) > 1 else ""
    return HubRecord(said) if _DIGEST.fullmatch(said) else None


def _pieces(path: Path) -> Iterator[bytes]:
    with open_input(path) as file:
        while piece := file.read(_PIECE):
            yield piece
