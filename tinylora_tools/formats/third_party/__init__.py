"""Third-party TinyLoRA formats: one module a dialect, each recognised by what is in its files.

`adapter.py` has the form that all are read into. A dialect says what its files hold and by which rules its project
numbers, groups and seeds modules; the arithmetic is `core`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ..checkpoint import Checkpoint, is_checkpoint, read_checkpoint
from ..peft.adapter import WEIGHTS_NAMES
from ..pickled.stored import load_pickle
from ..safetensors_file import SafetensorsFile, read_header
from . import anrgusc, chi_shan0707, cho104, curiouscaliboi, guokaku, spuuntries
from .adapter import Settings, ThirdPartyAdapter

DIALECTS = ("anrgusc", "chi-shan0707", "cho104", "curiouscaliboi", "guokaku", "spuuntries")

#: Dialects in a pickle of their own: what tells one, and what reads it.
_PICKLED: dict[str, tuple[Callable[[Any], bool], Callable[[Path, Any, Settings], ThirdPartyAdapter]]] = {
    "chi-shan0707": (chi_shan0707.recognises, lambda path, content, _: chi_shan0707.ChiShan0707(path, content)),
    "cho104": (cho104.recognises, cho104.Cho104),
    "spuuntries": (spuuntries.recognises, spuuntries.Spuuntries),
    "anrgusc": (anrgusc.recognises, anrgusc.Anrgusc),
}

#: Files of those pickles, looked for in a directory.
_FILES = (*chi_shan0707.FILES, *cho104.FILES, *spuuntries.FILES, *anrgusc.FILES)


@dataclass(frozen=True, slots=True)
class Found:
    """A third-party adapter: its dialect, its file or directory, and what that held: a header, an unpickled object, or
    a checkpoint."""

    dialect: str
    path: Path
    content: Any


def find(directory: Path, *, checkpoints: bool = True) -> Found | None:
    """The third-party adapter in a directory; None where there is none.

    `checkpoints` looks for one inside a whole checkpoint too.

    Raises
    ------
    FormatError
        For a damaged file, or several.
    """
    for file in _candidates(directory):
        content = read_header(file, keep_open=True) if file.suffix == ".safetensors" else load_pickle(file)
        if (found := recognise(file, content)) is not None:
            return found
    if checkpoints and is_checkpoint(directory):
        checkpoint = read_checkpoint(directory)
        if guokaku.recognises(checkpoint):
            return Found(guokaku.GuoKaku.dialect, directory, checkpoint)
    return None


def recognise(path: Path, content: object) -> Found | None:
    """The dialect of an open file, which holds a safetensors header or is what a pickle gave; None for any other."""
    if path.name in WEIGHTS_NAMES:  # PEFT's, whatever it holds
        return None
    if isinstance(content, SafetensorsFile):
        return Found("curiouscaliboi", path, content) if curiouscaliboi.recognises(content) else None
    name = next((name for name, (recognises, _) in _PICKLED.items() if recognises(content)), None)
    return None if name is None else Found(name, path, content)


def read(found: Found, settings: Mapping[str, str]) -> ThirdPartyAdapter:
    """Read a third-party adapter.

    Raises
    ------
    UndeterminedError
        If a setting that its files lack isn't given.
    FormatError
        If its files are damaged, or a setting isn't one.
    """
    asked = Settings(settings, found.path)
    adapter: ThirdPartyAdapter
    if isinstance(found.content, Checkpoint):
        adapter = guokaku.GuoKaku(found.content)
    elif isinstance(found.content, SafetensorsFile):
        adapter = curiouscaliboi.CuriousCaliBoi(found.content)
    else:
        adapter = _PICKLED[found.dialect][1](found.path, found.content, asked)
    asked.finish()
    return adapter


def _candidates(directory: Path) -> Iterator[Path]:
    """What in a directory may be a third-party adapter."""
    if (directory / curiouscaliboi.WEIGHTS_NAME).is_file():
        yield directory / curiouscaliboi.WEIGHTS_NAME
    present = [directory / name for name in _FILES if (directory / name).is_file()]
    if len(present) > 1:
        raise FormatError(
            f"holds {' and '.join(file.name for file in present)}", where=directory, hint="Name the one that you mean."
        )
    yield from present
