"""Third-party TinyLoRA formats: one module a dialect, each recognised by what is in its files.

`adapter.py` has the form that all are read into. A dialect says what its files hold and by which rules its project
numbers, groups and seeds modules; the arithmetic is `core`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import FormatError, UnsupportedError
from ..checkpoint import is_checkpoint, read_checkpoint
from ..peft_adapter import WEIGHTS_NAMES
from ..safetensors_file import read_header
from ..torch_file import load_pickle
from . import anrgusc, chi_shan0707, cho104, curiouscaliboi, guokaku, spuuntries
from .adapter import ForeignAdapter, Settings

Reader = Callable[[Path, Any, Settings], ForeignAdapter]

#: Dialects in a pickle of their own: what tells one, and what reads it.
_PICKLED: dict[str, tuple[Callable[[Any], bool], Reader]] = {
    "chi-shan0707": (chi_shan0707.recognises, lambda path, content, _: chi_shan0707.ChiShan0707(path, content)),
    "cho104": (cho104.recognises, cho104.Cho104),
    "spuuntries": (spuuntries.recognises, spuuntries.Spuuntries),
    "anrgusc": (anrgusc.recognises, anrgusc.Anrgusc),
}

DIALECTS = ("anrgusc", "chi-shan0707", "cho104", "curiouscaliboi", "guokaku", "spuuntries")

#: Files of those pickles, looked for in a directory.
_FILES = (*chi_shan0707.FILES, *cho104.FILES, *spuuntries.FILES, *anrgusc.FILES)


def find(path: Path, *, checkpoints: bool = True) -> tuple[str, Path] | None:
    """The dialect of what is at a path, and the file or directory to read; None for what is no foreign adapter.

    `checkpoints` looks for one inside a whole checkpoint too.

    Raises
    ------
    FormatError
        For a damaged file.
    """
    for candidate in _candidates(path):
        if candidate.is_dir():
            if checkpoints and guokaku.recognises(read_checkpoint(candidate)):
                return "guokaku", candidate
        elif candidate.suffix == ".safetensors":
            if curiouscaliboi.recognises(read_header(candidate)):
                return "curiouscaliboi", candidate
        else:
            content = load_pickle(candidate)
            for dialect, (recognises, _) in _PICKLED.items():
                if recognises(content):
                    return dialect, candidate
    return None


def read(path: Path, settings: Mapping[str, str]) -> ForeignAdapter:
    """Read a foreign adapter.

    Raises
    ------
    UnsupportedError
        If it is of no known dialect.
    UndeterminedError
        If a setting that its files lack isn't given.
    """
    found = find(path)
    if found is None:
        raise UnsupportedError(
            "is an adapter of no dialect that is known", where=path, hint="Known are " + ", ".join(DIALECTS) + "."
        )
    name, file = found
    asked = Settings(settings, file)
    adapter: ForeignAdapter
    if name == "guokaku":
        adapter = guokaku.GuoKaku(read_checkpoint(file))
    elif name == "curiouscaliboi":
        adapter = curiouscaliboi.CuriousCaliBoi(file)
    else:
        adapter = _PICKLED[name][1](file, load_pickle(file), asked)
    asked.finish()
    return adapter


def _candidates(path: Path) -> Iterator[Path]:
    """What in a directory, or which file, may be a foreign adapter."""
    if path.is_file():
        if path.name not in WEIGHTS_NAMES and path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
            yield path
        return
    if (path / curiouscaliboi.WEIGHTS_NAME).is_file():
        yield path / curiouscaliboi.WEIGHTS_NAME
    present = [path / name for name in _FILES if (path / name).is_file()]
    if len(present) > 1:
        raise FormatError(
            f"holds {' and '.join(file.name for file in present)}", where=path, hint="Name the one that you mean."
        )
    yield from present
    if is_checkpoint(path):
        yield path
