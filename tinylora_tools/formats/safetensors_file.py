"""The safetensors container: header parsing, validation, byte ranges, and headers for new files.

The format fits in four lines. Eight bytes hold a little-endian length N; N bytes of JSON map each tensor name to
`{"dtype", "shape", "data_offsets": [begin, end]}`, with an optional `"__metadata__"` of strings; then come the data,
where the offsets count from and the tensors fill every byte, with no overlap and no hole.
https://huggingface.co/docs/safetensors, format section.

A header is never trusted: each of these rules is checked before a byte of data is read, so what `read_header` returns
describes ranges that exist.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..inputs import FileState, open_input, remember
from .digests import not_as_recorded, recorded_in
from .placeholders import refuse_pointer
from .tensors import DTYPE_BITS, PIECE, Ranges, TensorInfo, numpy_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The largest header that the reference implementation reads.
MAX_HEADER_BYTES = 100_000_000

#: Bytes that are asked for at first of a file that isn't here: the headers of most shards are shorter.
_FIRST_BYTES = 32 << 10

#: Sizes and offsets are below it: the reference implementation reads them as unsigned integers of 64 bits.
_MOST = 1 << 64

_DAMAGED = "The file is damaged or isn't safetensors: download or save it again."


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A validated header.

    Attributes
    ----------
    path : Path
    size : int
        Bytes of the whole file.
    header : bytes
        Everything before the data: the length and the JSON, as they stand in the file.
    metadata : Mapping[str, str]
    tensors : Mapping[str, TensorInfo]
        In the order of their data; offsets count from the start of the file.
    opened : OpenFile, optional
        The file that the header was read from, where it was kept open; else each reading opens it again.
    digests : Mapping[str, str]
        sha256 of tensors, in hex: the first reading of each compares it.
    """

    path: Path
    size: int
    header: bytes
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    opened: OpenFile | None = field(default=None, repr=False, compare=False)
    state: FileState | None = field(default=None, repr=False, compare=False)
    """The file as it was when its header was read."""
    digests: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    ranges: Ranges | None = field(default=None, repr=False, compare=False)
    """Where the bytes come from, if not from this machine's file."""
    _compared: set[str] = field(default_factory=set, repr=False, compare=False)

    def read(self, name: str) -> NDArray[Any]:
        """The tensor as an array of its own."""
        import numpy as np

        info = self.tensors[name]
        data = np.empty(info.nbytes, np.uint8)
        with self._filling(name) as fill:
            fill(data.data, info.start)
        with self._comparing(name) as found:
            found(data.data)
        try:
            dtype = numpy_dtype(info.dtype)
        except KeyError:
            raise FormatError(
                f"{name}: a packed {info.dtype} tensor can't be read as numbers", where=self.path
            ) from None
        return data.view(dtype).reshape(info.shape)

    def pieces(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes in turn."""
        info = self.tensors[name]
        with self._filling(name) as fill, self._comparing(name) as found:
            for start in range(info.start, info.end, PIECE):
                piece = bytearray(min(PIECE, info.end - start))
                fill(memoryview(piece), start)
                found(piece)
                yield bytes(piece)

    def comparing(self) -> SafetensorsFile:
        """The same file, whose tensors are compared with the digests that it records of them."""
        return replace(self, digests=recorded_in(self))

    def remember(self) -> None:
        """Count the file among the inputs of what goes on: its header may have been read long before."""
        if self.state is not None:
            remember(self.path, self.state)

    @contextmanager
    def _comparing(self, name: str) -> Iterator[Callable[[bytearray | memoryview], object]]:
        """What takes a tensor's bytes in turn; when all were taken, they are what was recorded, or it raises."""
        if name not in self.digests or name in self._compared:
            yield lambda data: None
            return
        import hashlib  # brings OpenSSL's library, which few files need

        digest = hashlib.sha256()
        yield digest.update
        if digest.hexdigest() != self.digests[name]:
            raise not_as_recorded(name, self.path)
        self._compared.add(name)

    @contextmanager
    def _filling(self, name: str) -> Iterator[Callable[[memoryview, int], None]]:
        """What fills a buffer with bytes of that tensor, from a place in the file on."""
        self.remember()
        if self.ranges is not None:
            yield self.ranges.read_into
        elif self.opened is not None:
            yield partial(fill, self.opened.descriptor, name=name, path=self.path)
        else:
            with self.path.open("rb") as file:
                yield partial(fill, file.fileno(), name=name, path=self.path)


class OpenFile:
    """A file's descriptor, closed with the last object that holds this one."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def fill(descriptor: int, buffer: memoryview, start: int, name: str, path: Path) -> None:
    """Fill the buffer from a place in the file on; FormatError, for the tensor of that name, where the file ends."""
    while buffer:
        count = os.preadv(descriptor, [buffer], start)
        if not count:
            raise FormatError(f"{name}: the file ended early; was it replaced while being read?", where=path)
        buffer, start = buffer[count:], start + count


def read_header(path: Path, *, keep_open: bool = False) -> SafetensorsFile:
    """Parse and check the header of a safetensors file; no tensor is read.

    `keep_open` is for a file of many tensors that are all read: it takes a descriptor, of which a process has few.

    Raises
    ------
    FormatError
        For anything that breaks the format, naming the tensor and the rule.
    """
    with open_input(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        prefix = file.read(8)
        header = prefix + file.read(_header_length(path, prefix, size))
        opened = OpenFile(os.dup(file.fileno())) if keep_open else None
        state = FileState.of(os.fstat(file.fileno()))
    metadata, infos = _check_entries(path, _parse(path, header[8:]), data_start=len(header), size=size)
    return SafetensorsFile(path, size, header, metadata, infos, opened, state)


def read_remote_header(path: Path, size: int, ranges: Ranges) -> SafetensorsFile:
    """The same of a file that isn't on this machine; `path` is what it is called here, and `size` its bytes. It costs
    one range, or a second one where the header is long."""
    header = bytearray(min(size, _FIRST_BYTES))
    ranges.read_into(memoryview(header), 0)
    length = 8 + _header_length(path, bytes(header[:8]), size)
    if length > len(header):
        rest = bytearray(length - len(header))
        ranges.read_into(memoryview(rest), len(header))
        header += rest
    text = bytes(header[:length])
    metadata, infos = _check_entries(path, _parse(path, text[8:]), data_start=length, size=size)
    return SafetensorsFile(path, size, text, metadata, infos, ranges=ranges)


def _header_length(path: Path, prefix: bytes, size: int) -> int:
    """What the first eight bytes say, where it can be."""
    refuse_pointer(path, prefix)
    if len(prefix) < 8:
        raise FormatError(f"only {size} bytes long, too short for a safetensors header", where=path, hint=_DAMAGED)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(
            f"the header claims {length} bytes, above the format's limit of {MAX_HEADER_BYTES}",
            where=path,
            hint=_DAMAGED,
        )
    if length > size - 8:
        raise FormatError(
            f"the header claims {length} bytes but the file holds {size - 8} after its first eight: truncated",
            where=path,
            hint=_DAMAGED,
        )
    return length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FormatError("the header names a tensor or a field twice", where=path, hint=_DAMAGED)
        return found

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header isn't JSON ({error})", where=path, hint=_DAMAGED) from None
    if not isinstance(entries, dict):
        raise FormatError("the header is JSON but no object", where=path, hint=_DAMAGED)
    return entries


def _check_entries(
    path: Path, entries: dict[str, Any], *, data_start: int, size: int
) -> tuple[Mapping[str, str], Mapping[str, TensorInfo]]:
    def bad(name: str, what: str) -> FormatError:
        return FormatError(f"{name}: {what}", where=path, hint=_DAMAGED)

    metadata = entries.pop("__metadata__", None) or {}  # null is none to the reference reader
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise bad("__metadata__", "not a map from strings to strings")
    infos = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise bad(name, "the entry isn't {dtype, shape, data_offsets}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
            raise bad(name, f"unknown dtype {dtype!r}")
        if not _are_counts(shape):
            raise bad(name, f"the shape {shape!r} isn't a list of sizes")
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise bad(name, f"the offsets {offsets!r} aren't [begin, end]")
        bits = prod(shape) * DTYPE_BITS[dtype]
        if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
            takes = f"{bits / 8:g}" if bits < _MOST else "too many"
            raise bad(name, f"{dtype} of shape {shape} takes {takes} bytes but has {offsets[1] - offsets[0]}")
        infos.append(TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1]))
    infos.sort(key=lambda info: (info.start, info.end))
    position = data_start
    for info in infos:
        if info.start != position:
            what = "overlaps the tensor before it" if info.start < position else "leaves a hole before it"
            raise bad(info.name, f"starts at byte {info.start}, expected {position}: it {what}")
        position = info.end
    if position != size:
        what = f"truncated: the tensors need {position} bytes" if position > size else f"data end at byte {position}"
        raise FormatError(f"{what}, but the file has {size}", where=path, hint=_DAMAGED)
    return metadata, {info.name: info for info in infos}


def _are_counts(value: object) -> bool:
    if not isinstance(value, list) or {*map(type, value)} - {int}:  # a bool isn't one, either
        return False
    return not value or (min(value) >= 0 and max(value) < _MOST)


def build_header(
    tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, TensorInfo]]:
    """The header of a new file whose tensors (name, dtype, shape) follow each other as given.

    The JSON is padded with spaces to a multiple of eight bytes, as the reference writer does, so that the data are
    aligned. Metadata keys are sorted: the same input gives the same bytes.
    """
    entries: dict[str, object] = {}
    if metadata:
        entries["__metadata__"] = dict(sorted(metadata.items()))
    position = 0
    placed: list[tuple[str, str, tuple[int, ...], int, int]] = []
    for name, dtype, shape in tensors:
        end = position + prod(shape) * DTYPE_BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        placed.append((name, dtype, tuple(shape), position, end))
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    infos = {p[0]: TensorInfo(p[0], p[1], p[2], start + p[3], start + p[4]) for p in placed}
    return len(text).to_bytes(8, "little") + text, infos
