"""The packed dialect: an adapter as what can't be computed, in about a kilobyte.

A safetensors file. Tensors:

- `v.<group>` (u,), the trained vectors
- `corrections.index` (n,) and `corrections.value` (n,): entries of the factors that stand apart from the canonical
ones,
  by their place in A and B of all modules one behind the other, each in C order; without an index, all of them
- `P.<module number>` (u, r, r): a P that no seed draws
- anything that isn't TinyLoRA's (biases, modules_to_save, embeddings), under PEFT's key

Metadata, all text; what is the usual is left out:

- `format` "tinylora-packed"; `version` "1"
- `config`: a JSON object with the fields of adapter_config.json that aren't PEFT's defaults
- `weights`: the fingerprint of the base's target weights
- `signs`: a bit for each triplet whose sign isn't the canonical one
- `A`, `B`, `P`: digests (sha256, in base64 as all of these) of what is restored
- `content`: a digest of all else that the file holds, metadata and tensors
- `dtypes`: what each module was trained in; `stored` and `v`: the dtypes of the adapter's factors and vectors, if not
  float32
- `transposed`: the numbers of modules whose weights are stored (in, out), where the base's architecture doesn't tell
- `stream`: what draws P, if not torch-cpu-avx2; `P_of`: where no seed does, the number of the P that each module has
- `holds_P`: "true" or "false", where the adapter's file has P or not and its configuration says otherwise
- `error`: the largest relative error of a module's update
- `modules`, `groups`: where the configuration doesn't tell them

Module numbers follow `named_modules()`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .peft.config import TinyLoraConfig
from .peft.keys import is_adapter
from .safetensors_file import SafetensorsFile, read_header
from .tensors import dtype_name

FORMAT = "tinylora-packed"
VERSION = "1"
INDEX, VALUE = "corrections.index", "corrections.value"
CONTENT = "content"

#: What draws P, where the file doesn't say.
USUAL_STREAM = "torch-cpu-avx2"
_NUMBERED = re.compile(r"(?P<kind>v|P)\.(?P<number>0|[1-9][0-9]{0,8})")

#: adapter_config.json's fields with the values that are left out.
_DEFAULTS = {key: value for key, value in TinyLoraConfig().to_json().items() if key != "peft_version"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed adapter's header; its vectors and corrections are read on demand."""

    path: Path
    file: SafetensorsFile
    config: TinyLoraConfig

    def text(self, name: str) -> str:
        """A field of the metadata that has to be there."""
        value = self.file.metadata.get(name)
        if value is None:
            raise FormatError(f"its metadata lack {name!r}", where=self.path, hint="Pack the adapter again.")
        return value

    def names(self, name: str) -> list[str] | None:
        """A JSON list of strings in the metadata; None where it was left out."""
        return self._listed(name, str)

    def numbers(self, name: str) -> list[int] | None:
        """A JSON list of integers in the metadata; None where it was left out."""
        return self._listed(name, int)

    def _listed(self, name: str, of: type[T]) -> list[T] | None:
        text = self.file.metadata.get(name)
        if text is None:
            return None
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(type(value) is of for value in found):
            raise FormatError(
                f"its metadata's {name!r} isn't a list of {of.__name__}",
                where=self.path,
                hint="Pack the adapter again.",
            )
        return found

    @property
    def holds_projections(self) -> bool:
        """Whether the adapter's file holds P: what its configuration says, unless the metadata say otherwise."""
        said = self.file.metadata.get("holds_P")
        return self.config.save_projection if said is None else said == "true"

    @property
    def stream(self) -> str:
        """What draws P, where a seed does."""
        return self.file.metadata.get("stream", USUAL_STREAM)

    @property
    def vectors(self) -> dict[int, NDArray[Any]]:
        return dict(sorted(self._numbered("v").items()))

    @property
    def own_projections(self) -> dict[int, NDArray[Any]]:
        """P that the file holds, by module number."""
        return self._numbered("P")

    def _numbered(self, kind: str) -> dict[int, NDArray[Any]]:
        found = map(_NUMBERED.fullmatch, self.file.tensors)
        return {int(match["number"]): self.file.read(match[0]) for match in found if match and match["kind"] == kind}

    @property
    def others(self) -> dict[str, NDArray[Any]]:
        """What isn't TinyLoRA's, by PEFT's key."""
        return {n: self.file.read(n) for n in self.file.tensors if n.startswith("base_model.")}


def is_packed(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors file's metadata are a packed adapter's."""
    return metadata.get("format") == FORMAT


def as_packed(file: SafetensorsFile) -> Packed:
    """A packed adapter's header.

    Raises
    ------
    FormatError
        If it is no packed adapter, or a newer version wrote it.
    """
    if not is_packed(file.metadata):
        raise FormatError("isn't a packed adapter", where=file.path)
    if file.metadata.get("version") != VERSION:
        raise FormatError(
            f"is packed in version {file.metadata.get('version')}, and this release reads {VERSION}",
            where=file.path,
            hint="Update tinylora-tools.",
        )
    try:
        config = json.loads(file.metadata["config"])
    except (KeyError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise FormatError("its metadata hold no configuration", where=file.path, hint="Pack the adapter again.")
    stray = next((name for name in file.tensors if not _may_hold(file, name)), None)
    if stray is not None:
        raise FormatError(f"holds {stray}, which nothing packs", where=file.path, hint="Pack the adapter again.")
    return Packed(file.path, file, TinyLoraConfig.from_json({**_DEFAULTS, **config}, file.path))


def _may_hold(file: SafetensorsFile, name: str) -> bool:
    """Whether a tensor is this form's, or one of PEFT's that isn't TinyLoRA's: those are restored, never stored."""
    if name.startswith("base_model.model."):
        return not is_adapter({name: file.tensors[name]})
    return name in (INDEX, VALUE) or _NUMBERED.fullmatch(name) is not None


def packed_at(path: Path) -> Packed | None:
    """The packed adapter at a path; None for anything else."""
    if not path.is_file() or path.suffix != ".safetensors":
        return None
    file = read_header(path)
    return as_packed(file) if is_packed(file.metadata) else None


def lean_config(raw: Mapping[str, Any]) -> str:
    """adapter_config.json without PEFT's defaults, as short as JSON gets."""
    kept = {key: value for key, value in raw.items() if key not in _DEFAULTS or value != _DEFAULTS[key]}
    if isinstance(kept.get("target_modules"), list):
        kept["target_modules"] = sorted(kept["target_modules"])
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def digest_of(arrays: Iterable[NDArray[Any]]) -> str:
    """sha256 of arrays one behind the other, in float32."""
    import hashlib  # brings OpenSSL's library, which no other form of adapter needs

    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array, np.float32).tobytes())
    return short(found.digest())


def content_mark(metadata: Mapping[str, str], names: Iterable[str], read: Callable[[str], NDArray[Any]]) -> str:
    """sha256 of all that a file holds, whatever the order: its metadata but for the mark itself, and its tensors'
    names, dtypes, shapes and bytes."""
    import hashlib

    said = {key: value for key, value in metadata.items() if key != CONTENT}
    found = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(names):
        array = read(name)
        found.update(json.dumps([name, dtype_name(array.dtype), array.shape]).encode())
        found.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
    return short(found.digest())


def check_content(packed: Packed) -> None:
    """Raise FormatError if what a packed adapter holds isn't what was packed."""
    file = packed.file
    if content_mark(file.metadata, file.tensors, file.read) != packed.text(CONTENT):
        raise FormatError(
            "what it holds isn't what was packed: its metadata or a tensor were changed",
            where=packed.path,
            hint="Get the file again, or pack the adapter again.",
        )


def short(data: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(data).decode().rstrip("=")


def long(text: str) -> bytes:
    """The bytes of such text; none where it is damaged."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""
