"""Files and tensors that stand for others: said to be what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import FormatError
from .tensors import TensorInfo

_POINTER = b"version https://git-lfs.github.com/spec/"
_MAGIC = _POINTER[:8]  # a length that no header has

#: What DeepSpeed's ZeRO-3 leaves of a parameter that is spread over processes.
_SPREAD = (0,)

#: How to get at what ZeRO-3 spread over processes.
GATHER = (
    "Save the model gathered: with stage3_gather_16bit_weights_on_model_save, by DeepSpeed's zero_to_fp32.py, or "
    "within deepspeed.zero.GatheredParameters."
)


def refuse_pointer(path: Path, start: bytes | None = None) -> None:
    """Raise FormatError for a file that is empty, or that Git LFS left in place of the one that it stands for; `start`
    are its first bytes, where they were read already."""
    if start is None:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    if not start:
        raise FormatError("is empty: 0 bytes", where=path, hint="Download or save it again; the disk may be full.")
    if len(start) >= len(_MAGIC) and _POINTER.startswith(start):
        raise FormatError(
            "is a Git LFS pointer, a few lines of text in place of the file itself",
            where=path,
            hint="Fetch it with `git lfs pull` in that repository, or download it from the Hub.",
        )


def spread(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Tensors of which ZeRO-3 left nothing but the name."""
    return [name for name, info in tensors.items() if info.shape == _SPREAD]


def said_of_spread(names: list[str]) -> str:
    """What to say of them."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"{names[0]}{more}: the shape is (0,), which DeepSpeed's ZeRO-3 leaves of a parameter that is spread over "
        "processes"
    )
