"""Where inputs come from: a local path, or a Hub repository written `hf://owner/name` or `hf://owner/name@revision`.

The only user of huggingface_hub, which is imported when a Hub repository is named. Its environment variables (HF_HOME,
HF_TOKEN, HF_HUB_OFFLINE) work as everywhere.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError, TinyLoraError

if TYPE_CHECKING:
    from huggingface_hub import HfUri

HUB_PREFIX = "hf://"

#: What a checkpoint or an adapter needs: no weights of other frameworks, no images.
_PATTERNS = ["*.safetensors", "*.json", "*.bin", "*.txt", "*.model", "*.jinja", "*.py", "*.md"]


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
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
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
    if source.startswith(HUB_PREFIX):
        _repository(source)
    return source


def base_name(source: str | Path) -> str:
    """What base_model_name_or_path says of a base: a repository's name, or a path from here on, or in full."""
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
        return _repository(source).id
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


def _repository(source: str) -> HfUri:
    """The repository that a source names.

    Raises
    ------
    FormatError
        If it can't be one.
    """
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    expected = f"Write {HUB_PREFIX}owner/name, with @revision behind it for another than main."
    try:
        found = parse_hf_uri(source)
    except HfUriError as error:
        raise FormatError(f"isn't a repository on the Hub: {error}", where=source, hint=expected) from None
    if found.type != "model" or found.path_in_repo:
        what = f"a {found.type}" if found.type != "model" else f"the file {found.path_in_repo} in one"
        raise FormatError(f"expected a model's repository, this is {what}", where=source, hint=expected)
    return found


def _download(source: str) -> Path:
    from huggingface_hub import snapshot_download

    repository = _repository(source)
    try:
        return Path(snapshot_download(repository.id, revision=repository.revision, allow_patterns=_PATTERNS))
    except MemoryError:
        raise
    except Exception as error:  # whatever a server's answer, or a proxy's, makes the client raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise TinyLoraError(
            f"can't be had from the Hub: {reason}",
            where=source,
            hint="Check the name and the network; HF_TOKEN opens private repositories. Or name a local directory.",
        ) from None
