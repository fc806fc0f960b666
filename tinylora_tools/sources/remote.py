"""Repositories on the Hub that are looked at without being downloaded: which files they have, and ranges of those.

Everything goes through huggingface_hub's own client, with its token, its endpoint and its retries. Its calls for
safetensors metadata aren't used: they drop the bytes of the header, which a merge keeps, and don't try again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import FormatError, TinyLoraError
from ..formats.checkpoint import SAFETENSORS_INDEX, SAFETENSORS_NAME, leads_out, read_tensor_file
from ..formats.safetensors_file import read_remote_header
from ..formats.tensors import TensorFile
from .download import texts
from .hub_errors import told, unreachable
from .hub_records import HubRecord
from .repository import Repository, parsed

#: Bytes that are asked for at a time, of which a copy is in memory until they are where they belong.
_PIECE = 16 << 20

#: Answers after which huggingface_hub asks again.
_AGAIN = (408, 429, 500, 502, 503, 504)

#: Seconds without a byte after which they are asked for again.
_WAIT = 30


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file's size, and what the Hub records of its content; None where it doesn't say."""

    size: int
    record: HubRecord | None


@dataclass(frozen=True)
class Remote:
    """A repository at a commit.

    Attributes
    ----------
    named : Repository
        As it was named: the cache notes which commit a branch was at.
    commit : str
    files : Mapping
        What it holds, by name.
    source : str
        As it was named.
    """

    named: Repository
    commit: str
    files: Mapping[str, HubFile]
    source: str

    @property
    def repository(self) -> Repository:
        """It at the commit."""
        return Repository(self.named.id, self.commit)

    @property
    def is_checkpoint(self) -> bool:
        """Whether it has weights whose headers can be read from afar."""
        return SAFETENSORS_NAME in self.files or SAFETENSORS_INDEX in self.files

    @cached_property
    def directory(self) -> Path:
        """Where all that a model has besides weights is: it is downloaded to the Hub's cache."""
        found = texts(self.named, self.source)
        return found if found.name == self.commit else texts(self.repository, self.source)  # it has moved since

    def has(self, name: str) -> bool:
        return name in self.files

    def open(self, name: str) -> TensorFile:
        """A weights file: that of the cache, if it is there; else one whose tensors are read from afar."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        repository, path = self.repository, self.directory / name
        cached = try_to_load_from_cache(repository.id, name, revision=repository.revision)
        if not isinstance(cached, str) and path.suffix != ".safetensors":  # has to be read as a whole
            with told(repository, self.source):
                cached = hf_hub_download(repository.id, name, revision=repository.revision)
        if isinstance(cached, str):
            return read_tensor_file(Path(cached))
        ranges = _RemoteFile(self, name)
        ranges.require_ranges()
        return read_remote_header(path, self.files[name].size, ranges)


def look(source: str) -> Remote | None:
    """What a repository has; None where the Hub can't be asked, and only the cache may have it.

    Raises
    ------
    FormatError
        If the source can't be a repository's name, or the repository names a file outside of itself.
    TinyLoraError
        If it can't be had.
    """
    from huggingface_hub import HfApi

    repository = parsed(source)
    with told(repository, source):
        try:
            info = HfApi().model_info(repository.id, revision=repository.revision, files_metadata=True)
        except Exception as error:
            if unreachable(error):
                return None
            raise
    files = {one.rfilename: HubFile(one.size or 0, _record(one)) for one in info.siblings or ()}
    _require_inside(files, source)
    return Remote(repository, info.sha or "", files, source)


def _record(sibling: Any) -> HubRecord | None:
    lfs = sibling.lfs
    digest = (lfs.sha256 if lfs else None) or sibling.blob_id
    return HubRecord(digest) if digest else None


def _require_inside(names: Mapping[str, HubFile], source: str) -> None:
    for name in names:
        if leads_out(name):
            raise FormatError(
                f"the repository lists a file {name!r}, which would be outside of it",
                where=source,
                hint="Don't use it: no program that is in order makes such a name.",
            )


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    """The `Ranges` of a file."""

    remote: Remote
    name: str

    def read_into(self, buffer: memoryview, start: int) -> None:
        buffer = buffer.cast("B")
        for done in range(0, len(buffer), _PIECE):
            piece = buffer[done : done + _PIECE]
            data = self._range(start + done, len(piece))
            if len(data) != len(piece):
                raise TinyLoraError(
                    f"{self.name}: the Hub gave {len(data):,} bytes where {len(piece):,} were asked for",
                    where=self.remote.source,
                    hint="Try again.",
                )
            piece[:] = data

    def _range(self, start: int, size: int) -> bytes:
        client = _client()
        with told(self.remote.repository, self.remote.source):
            headers = self._headers(start, size)
            answer = client.http_backoff(
                "GET", self._url(), headers=headers, timeout=_WAIT, retry_on_status_codes=_AGAIN
            )
            client.hf_raise_for_status(answer)
            return bytes(answer.content)

    def require_ranges(self) -> None:
        """Raise TinyLoraError where a server, a mirror say, gives whole files only, before it does."""
        with told(self.remote.repository, self.remote.source), _answered(self._url(), self._headers(0, 1)) as answer:
            _client().hf_raise_for_status(answer)
            if answer.status_code == 200:
                raise TinyLoraError(
                    "the server gives whole files only, no ranges of their bytes",
                    where=self.remote.source,
                    hint=f"Fetch it by `hf download {self.remote.repository.id}`, and try again.",
                )

    def _url(self) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.remote.repository.id, self.name, revision=self.remote.repository.revision)

    def _headers(self, start: int, size: int) -> dict[str, str]:
        return {**_client().build_hf_headers(), "Range": f"bytes={start}-{start + size - 1}"}


def _client() -> Any:
    """huggingface_hub's functions for requests of one's own."""
    from huggingface_hub import utils

    return utils


@contextmanager
def _answered(url: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """A server's answer without its body."""
    client, given = _client(), {"headers": headers, "timeout": _WAIT, "retry_on_status_codes": _AGAIN}
    if hasattr(client, "http_stream_backoff"):
        with client.http_stream_backoff("GET", url, **given) as answer:
            yield answer
    else:  # before 1.0
        with client.http_backoff("GET", url, stream=True, **given) as answer:
            yield answer
