"""Where inputs come from: a local path, or a Hub repository written `hf://owner/name[@revision]`, or its address.

huggingface_hub, which only this package uses, is imported when a Hub repository is named. Its environment variables
(HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT) work as everywhere.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..errors import FormatError
from .download import whole
from .remote import look
from .repository import HUB_PREFIX, names_repository, parsed

__all__ = ["HUB_PREFIX", "base_name", "checked", "expanded", "locate", "locate_base", "shown"]

#: How the Hub's cache calls a model's directory.
_CACHED = "models--"


def locate(source: str | Path) -> Path:
    """The local path of a source; a Hub repository (named by a string) is downloaded to the Hub cache, or found there.

    Raises
    ------
    FormatError
        If there is nothing at the path, or a named pipe, say.
    TinyLoraError
        If the repository can't be had.
    """
    named = os.fspath(source)
    if not named:
        raise FormatError("an empty path names nothing", hint="Write . for the directory that you are in.")
    if names_repository(source):
        return _download(source)
    path = expanded(named)
    if not path.exists():
        hint = "Check the spelling."
        if named.count("/") == 1 and not named.startswith((".", "~", "/")):
            hint += f" For a repository on the Hub, write {HUB_PREFIX}{named}."
        raise FormatError("no such file or directory", where=named, hint=hint)
    if not path.is_dir() and not path.is_file():
        hint = "Write what comes from it to a file, and name that."
        raise FormatError("is neither a file nor a directory, but a pipe or a device", where=named, hint=hint)
    return path


def checked(source: str) -> str:
    """The source itself; FormatError where it can't be one, whatever is there."""
    if names_repository(source):
        parsed(source)
    return source


def base_name(source: str | Path) -> str:
    """What base_model_name_or_path says of a base: a repository's name, or a path from here on, or in full."""
    if names_repository(source):
        return parsed(source).id
    resolved = expanded(source).resolve()
    try:
        return str(resolved.relative_to(Path.cwd()))
    except ValueError:
        return str(resolved)


def locate_base(name: str, revision: str | None, beside: Path) -> Path | None:
    """The base that an adapter's configuration names, where it is at hand: a directory (relative to the current one or
    to the adapter's, `beside`), or a repository that the Hub cache already holds. Nothing is downloaded."""
    for path in (expanded(name), beside / name):
        with suppress(OSError):  # of another machine or person, it may lie where one may not look, or can't be a name
            if path.is_dir():
                return path
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # a path that isn't here, such as ./base
        return None
    return Path(found).parent if isinstance(found, str) else None


def expanded(source: str | Path) -> Path:
    """A path with its ~; that of nobody who is known here is a name as others."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def shown(path: Path) -> str:
    """A path as reports have it: of what is in the Hub's cache, its repository and commit."""
    for directory in (path, *path.parents):
        if directory.parent.name == "snapshots" and directory.parent.parent.name.startswith(_CACHED):
            name = directory.parent.parent.name.removeprefix(_CACHED).replace("--", "/")
            inside = path.relative_to(directory).as_posix()
            return f"{HUB_PREFIX}{name}@{directory.name}" + ("" if inside == "." else f"/{inside}")
    return str(path)


def _download(source: str) -> Path:
    """A repository's snapshot in the Hub's cache."""
    remote = look(source)
    if remote is None:
        return whole(parsed(source), source, None)
    return whole(remote.named, source, remote.files)
