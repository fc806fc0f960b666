"""The file that `tinylora factor` writes: singular triplets of a base's weights.

Tensors `<module>.U` (out, r), `<module>.S` (r,) and `<module>.Vh` (r, in), in float32. Metadata:

- `format`: "tinylora-factors"; `version`: "1"; `rank`: r as it was asked for
- `modules`: a JSON object from module name to `fingerprint` (sha256 of the weight's dtype, shape and bytes) and what
the
  factorization reported of itself
- `tinylora_tools` and `torch`: the versions that made it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError
from .safetensors_file import SafetensorsFile, read_header

FORMAT = "tinylora-factors"
VERSION = "1"
PARTS = ("U", "S", "Vh")


@dataclass(frozen=True, slots=True)
class FactorsFile:
    """A factors file's header; `modules` maps a module's name to what the metadata say of it."""

    file: SafetensorsFile
    rank: int
    modules: Mapping[str, Mapping[str, Any]]


def read_factors(path: Path) -> FactorsFile:
    """Read the header of a factors file.

    Raises
    ------
    FormatError
        If it isn't one, or a newer version wrote it.
    """
    file = read_header(path)
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise FormatError("isn't a file that `tinylora factor` wrote", where=path, hint="Name another output.")
    if metadata.get("version") != VERSION:
        raise FormatError(
            f"has version {metadata.get('version')}, and this release reads {VERSION}",
            where=path,
            hint="Update tinylora-tools.",
        )
    try:
        rank, modules = int(metadata["rank"]), json.loads(metadata["modules"])
        if not all(isinstance(facts["fingerprint"], str) for facts in modules.values()):
            raise TypeError
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise FormatError("its metadata are damaged", where=path, hint="Make it again.") from None
    absent = [f"{name}.{part}" for name in modules for part in PARTS if f"{name}.{part}" not in file.tensors]
    if absent:
        raise FormatError(f"{absent[0]} is missing", where=path, hint="Make it again.")
    return FactorsFile(file, rank, modules)


def metadata_of(rank: int, modules: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a file with these modules."""
    text = json.dumps(modules, separators=(",", ":"))
    return {"format": FORMAT, "version": VERSION, "rank": str(rank), "modules": text, **versions}
