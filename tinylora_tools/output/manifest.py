"""What a merge read and wrote, by sha256: each file, and each tensor, so that a difference has a name.

A JSON object in the merged model's directory::

    format "tinylora-manifest", version 1, made_by
    settings    what the merge was told: scales, dtype, tied, stream, release, module_order, architecture (a sha256)
    base, output    {"name", "files": {path: sha256}, "tensors": {name: sha256}}
    adapters    a list of the same

Names are those of directories; no path of the machine is in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..formats.json_file import read_object
from ..formats.tensors import PIECE, TensorFile
from ..inputs import open_input
from ..workers import Workers

NAME = "tinylora-manifest.json"
FORMAT, VERSION = "tinylora-manifest", 1


@dataclass(frozen=True, slots=True)
class Contents:
    """sha256 of files, by their path in a directory, and of tensors, by name."""

    name: str
    files: Mapping[str, str]
    tensors: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A merge's; see above."""

    settings: Mapping[str, Any]
    base: Contents
    adapters: tuple[Contents, ...]
    output: Contents


def contents_of(
    name: str, files: Mapping[str, Path], tensors: Iterable[tuple[str, TensorFile]], pool: Workers
) -> Contents:
    """The digests of files and of the tensors in some of them.

    Parameters
    ----------
    name : str
    files : Mapping
        Path in the directory to the file.
    tensors : iterable of (str, TensorFile)
        Each tensor's name, and the open file that has it.
    pool : Workers
        What computes several at a time.
    """
    listed = list(tensors)
    of_files = [pool.submit(file_digest, path) for path in files.values()]
    of_tensors = [pool.submit(tensor_digest, file, tensor) for tensor, file in listed]
    return Contents(
        name,
        {path: digest.result() for path, digest in zip(files, of_files, strict=True)},
        {tensor: digest.result() for (tensor, _), digest in zip(listed, of_tensors, strict=True)},
    )


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    import hashlib  # brings OpenSSL's library, which little else needs

    found = hashlib.sha256()
    with open_input(path) as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()


def tensor_digest(file: TensorFile, name: str) -> str:
    """sha256 of a tensor's bytes."""
    import hashlib

    found = hashlib.sha256()
    for piece in file.pieces(name):
        found.update(piece)
    return found.hexdigest()


def files_in(directory: Path) -> dict[str, Path]:
    """Every file of a merged model but its manifest, by its path in the directory."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file() or path.is_symlink())
    named = {path.relative_to(directory).as_posix(): path for path in found}
    return {name: path for name, path in named.items() if name != NAME}


def different(recorded: Mapping[str, str], here: Mapping[str, str], kind: str) -> list[tuple[str, str]]:
    """The names under which digests differ, and how; `kind` says what they are of, a "file" or a "tensor"."""
    found = []
    for name in sorted(recorded.keys() | here.keys()):
        if name not in here:
            found.append((name, f"this {kind} is missing"))
        elif name not in recorded:
            found.append((name, f"this {kind} wasn't there"))
        elif recorded[name] != here[name]:
            found.append((name, f"this {kind} was changed"))
    return found


def write_manifest(directory: Path, manifest: Manifest, made_by: str) -> None:
    """Write a manifest into a merged model's directory."""
    said = {"format": FORMAT, "version": VERSION, "made_by": made_by, **asdict(manifest)}
    (directory / NAME).write_text(json.dumps(said, indent=1) + "\n", "utf-8")


def read_manifest(path: Path) -> Manifest:
    """A manifest, by its file or by the merged model's directory.

    Raises
    ------
    FormatError
        If there is none, it is damaged, or a newer release wrote it.
    """
    if path.is_dir():
        if not (path / NAME).is_file():
            raise FormatError(f"holds no {NAME}", where=path, hint="Merge again, and ask for a manifest.")
        path = path / NAME
    said = read_object(path)
    if said.get("format") != FORMAT or said.get("version") != VERSION:
        raise FormatError(f"isn't a manifest of version {VERSION}", where=path, hint="Update tinylora-tools.")
    adapters, settings = said.get("adapters"), said.get("settings")
    if not isinstance(adapters, list) or not isinstance(settings, dict):
        raise FormatError("its adapters or its settings are damaged", where=path, hint="Merge again.")
    return Manifest(
        settings=settings,
        base=_contents(said.get("base"), path),
        adapters=tuple(_contents(one, path) for one in adapters),
        output=_contents(said.get("output"), path),
    )


def _contents(said: object, path: Path) -> Contents:
    if isinstance(said, dict) and isinstance(said.get("name"), str):
        files: Any = said.get("files")
        tensors: Any = said.get("tensors")
        if _are_texts(files) and _are_texts(tensors):
            return Contents(said["name"], files, tensors)
    raise FormatError("what it says of files and tensors is damaged", where=path, hint="Merge again.")


def _are_texts(said: Any) -> bool:
    return isinstance(said, dict) and all(isinstance(one, str) for one in said.values())
