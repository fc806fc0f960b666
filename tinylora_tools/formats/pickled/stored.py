"""Files that `torch.save` wrote: values, and tensors as ranges of the file that are read when they are asked for.

Since PyTorch 1.6 such a file is a zip archive, never compressed: `data.pkl` says what there is, `data/<key>` holds a
storage's bytes. Before, the pickle came first, and the storages behind it (torch/serialization.py).
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from ...errors import FormatError
from ...inputs import open_input
from ..safetensors_file import fill
from ..tensors import DTYPE_BITS, numpy_dtype
from .machine import Global, PickleError, View, unpickle

if TYPE_CHECKING:
    import zipfile

    from numpy.typing import NDArray

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip

#: Types of storages, by the dtype of their elements; an UntypedStorage's tensors say their own.
_STORAGES = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32", "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
    "torch.ComplexFloatStorage": "C64", "torch.storage.UntypedStorage": "",
}  # fmt: skip

#: The largest pickle that is read: that of a million tensors.
_MOST_PICKLED = 300_000_000

#: Of a pickle: names of classes.
_LONGEST_LINE = 10_000

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files from before PyTorch 1.6


class _Storage(NamedTuple):
    """Bytes that tensors are views of; `dtype` is empty where each tensor says its own."""

    key: str
    nbytes: int
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor in a pickled file.

    Attributes
    ----------
    path : Path
    dtype : str
        As safetensors names it.
    storage : str
    offset : int
        Of the first element in the storage, in bytes.
    shape, strides : tuple of int
        Strides count elements.
    """

    path: Path
    dtype: str
    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    _places: Mapping[str, int] = field(repr=False)

    @property
    def start(self) -> int:
        """Where in the file the first element is."""
        return self._places[self.storage] + self.offset

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    def read(self) -> NDArray[Any]:
        """The tensor as an array of its own."""
        import numpy as np

        dtype = numpy_dtype(self.dtype)
        if not prod(self.shape):
            return np.empty(self.shape, dtype)
        span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        data = np.empty(span * dtype.itemsize, np.uint8)
        with self.path.open("rb") as file:
            fill(file.fileno(), data.data, self.start, "a tensor", self.path)
        if self.is_contiguous:
            return data.view(dtype).reshape(self.shape)
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        bits = data.view(f"u{dtype.itemsize}")  # NumPy can't stride over the dtypes of others
        return np.lib.stride_tricks.as_strided(bits, self.shape, strides).copy("C").view(dtype)


def load_pickle(path: Path) -> Any:
    """What `torch.save` wrote: dicts and lists of texts, numbers and `StoredTensor`, whose bytes aren't read yet.

    Raises
    ------
    FormatError
        If it is damaged, compressed, or would have to run code to be read.
    """
    import zipfile  # which few files need

    with open_input(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_archive(path, file, size) if zipped else _read_legacy(path, file, size)
        except (PickleError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise FormatError(
                f"not a state dict that can be read safely ({reason})",
                where=path,
                hint="The file is damaged or holds more than tensors: save it again as safetensors.",
            ) from None


class _Tensors:
    """What a pickle says of storages and tensors, checked; `places` tells where each storage begins in the file."""

    def __init__(self, path: Path, places: Mapping[str, int]) -> None:
        self.nbytes: dict[str, int] = {}
        self._path, self._places = path, places

    def storage(self, which: tuple[Any, ...]) -> _Storage:
        """The storage that a pickle names: ("storage", type, key, device, number of elements)."""
        if len(which) not in (5, 6) or which[0] != "storage" or any(which[5:]):
            raise PickleError("names a storage in an unknown way")
        _, kind, key, _, count = which[:5]
        if not isinstance(kind, Global) or type(key) is not str or type(count) is not int or not 0 <= count < 1 << 60:
            raise PickleError("names a storage in an unknown way")
        if str(kind) not in _STORAGES:
            raise PickleError(f"a {kind} isn't supported")
        dtype = _STORAGES[str(kind)]
        nbytes = count * DTYPE_BITS[dtype] // 8 if dtype else count
        if self.nbytes.setdefault(key, nbytes) != nbytes:
            raise PickleError("a storage has two sizes")
        return _Storage(key, nbytes, dtype)

    def tensor(self, view: View) -> StoredTensor:
        """A tensor whose elements are in its storage, each once at most."""
        storage = view.storage
        if not isinstance(storage, _Storage):
            raise PickleError("a tensor's storage isn't one")
        dtype = storage.dtype or _DTYPES.get(view.dtype or "", "")
        if not dtype or (view.dtype is not None and _DTYPES.get(view.dtype) != dtype):
            raise PickleError(f"a tensor of {view.dtype} isn't supported")
        itemsize = DTYPE_BITS[dtype] // 8
        held, count = storage.nbytes // itemsize, prod(view.shape)
        if count > held:
            raise PickleError(f"a tensor repeats the {held:,} numbers of its storage as {count:,}: save it contiguous")
        last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
        if count and last >= held:
            raise PickleError("a tensor reaches past its storage")
        return StoredTensor(
            self._path, dtype, storage.key, view.offset * itemsize, view.shape, view.strides, self._places
        )


def _read_archive(path: Path, file: BinaryIO, size: int) -> Any:
    import zipfile

    records = {}
    for entry in zipfile.ZipFile(file).infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise PickleError(f"{entry.filename} is compressed or encrypted, as torch.save writes nothing")
        records[entry.filename] = entry
    pickles = [name for name in records if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError(f"the archive holds {len(pickles)} pickles, expected one")
    root = pickles[0].removesuffix("data.pkl")
    order = records.get(f"{root}byteorder")
    if order is not None and (order.file_size > 6 or _bytes_of(file, order, size) != b"little"):
        raise PickleError("its numbers aren't stored in little-endian order")
    if records[pickles[0]].file_size > _MOST_PICKLED:
        raise PickleError("its pickle is too large for one of tensors")
    places: dict[str, int] = {}
    tensors = _Tensors(path, places)
    content = unpickle(io.BytesIO(_bytes_of(file, records[pickles[0]], size)), tensors.storage, tensors.tensor)
    for key, nbytes in tensors.nbytes.items():
        record = records.get(f"{root}data/{key}")
        if record is None or record.file_size < nbytes:
            raise PickleError("a tensor's storage is missing or cut short")
        places[key] = _start_of(file, record, size)
    return content


def _start_of(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> int:
    """Where an entry's bytes begin: behind its own header, whose length the directory doesn't tell."""
    file.seek(max(0, entry.header_offset))
    header = file.read(30)
    if entry.header_offset < 0 or len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise PickleError("the archive's directory is wrong")
    name, more = struct.unpack("<HH", header[26:])
    start: int = entry.header_offset + 30 + name + more
    if start + entry.file_size > size:
        raise PickleError("the archive is cut short")
    return start


def _bytes_of(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> bytes:
    file.seek(_start_of(file, entry, size))
    return file.read(entry.file_size)


class _Bounded:
    """A file of which no more is asked than it has: buffers for texts of any length would be made beforehand."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, _MOST_PICKLED, self._size - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline(_LONGEST_LINE)

    def tell(self) -> int:
        return self._file.tell()


def _read_legacy(path: Path, file: BinaryIO, size: int) -> Any:
    places: dict[str, int] = {}
    tensors = _Tensors(path, places)
    pickles = cast(BinaryIO, _Bounded(file, size))
    start = [unpickle(pickles, tensors.storage, tensors.tensor) for _ in range(3)]
    if start[:2] != [_MAGIC, _PROTOCOL] or not isinstance(start[2], dict) or start[2].get("little_endian") is not True:
        raise PickleError("it begins as no file of torch.save's does")
    content = unpickle(pickles, tensors.storage, tensors.tensor)
    keys = unpickle(pickles, tensors.storage, tensors.tensor)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in tensors.nbytes for key in keys):
        raise PickleError("its list of storages is wrong")
    for key in keys:
        places[key] = file.tell() + 8  # behind the number of elements, which the pickle has told
        if file.seek(places[key] + tensors.nbytes[key]) > size:
            raise PickleError("the file is cut short")
    if missing := tensors.nbytes.keys() - places.keys():
        raise PickleError(f"{len(missing)} storages are missing")
    return content
