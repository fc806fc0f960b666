"""Where inputs come from: a local path, or a Hub repository written `hf://owner/name` or `hf://owner/name@revision`.

The only user of huggingface_hub, which is imported when a Hub repository is named. Its environment variables (HF_HOME,
HF_TOKEN, HF_HUB_OFFLINE) work as everywhere.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..errors import FormatError, TinyLoraError

HUB_PREFIX = "hf://"

#: What a checkpoint or an adapter needs: no weights of other frameworks, no images.
_PATTERNS = ["*.safetensors", "*.json", "*.bin", "*.txt", "*.model", "*.jinja", "*.py", "*.md"]


def locate(source: str) -> Path:
    """The local path of a source; a Hub repository is downloaded to the Hub cache, or found there.

    Raises
    ------
    FormatError
        If there is nothing at the path.
    TinyLoraError
        If the repository can't be had.
    """
    if source.startswith(HUB_PREFIX):
        return _download(source.removeprefix(HUB_PREFIX))
    path = _expanded(source)
    if not path.exists():
        hint = "Check the spelling."
        if source.count("/") == 1 and not source.startswith((".", "~", "/")):
            hint += f" For a repository on the Hub, write {HUB_PREFIX}{source}."
        raise FormatError("no such file or directory", where=source, hint=hint)
    return path


def locate_base(name: str, revision: str | None, beside: Path) -> Path | None:
    """The base that an adapter's configuration names, where it is at hand: a directory (relative to the current one or
    to the adapter's, `beside`), or a repository that the Hub cache already holds. Nothing is downloaded."""
    for path in (_expanded(name), beside / name):
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


def _expanded(source: str) -> Path:
    """A path with its ~; that of nobody who is known here is a name as others."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise TinyLoraError(
            f"can't be had from the Hub: {str(error).splitlines()[0]}",
            where=HUB_PREFIX + repository,
            hint="Check the name and the network; HF_TOKEN opens private repositories. Or name a local directory.",
        ) from None
