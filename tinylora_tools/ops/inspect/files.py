"""Files that came from the Hub, compared with what it records of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import UndeterminedError
from ...progress import NoProgress, Progress
from ...sources.hub_records import HubRecord, hub_record
from ...sources.locate import locate, shown
from ...sources.remote import look
from ...sources.repository import names_repository
from ...workers import Workers


@dataclass(frozen=True, slots=True)
class FileVerdict:
    """One file: whether its content has the digest that the Hub records; "not-recorded" where none is known of it, as
    of a file that didn't come from there, and "not-here" where it isn't on this machine."""

    name: str
    verdict: Literal["same", "differs", "not-recorded", "not-here"]
    bytes: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class FilesReport:
    """What `tinylora inspect` says of files that it compares; `ok` where none differs. `recorded_by` is the repository,
    at its commit, or huggingface_hub's own notes where the Hub wasn't asked."""

    kind: str
    path: str
    ok: bool
    recorded_by: str
    files: list[FileVerdict]
    warnings: list[str]


def check_files(source: str | Path, *, progress: Progress | None = None) -> FilesReport:
    """Compare each file of a repository that is in the Hub's cache, or of a directory that huggingface_hub downloaded,
    with the digest that the Hub records: sha256 of what Git LFS or Xet keeps, Git's own sha1 of the rest.

    Parameters
    ----------
    source : str or Path
        A repository (`hf://owner/name`): the Hub is asked, where it can be; or a directory: what huggingface_hub noted
        when it was downloaded counts.
    progress : Progress, optional

    Raises
    ------
    UndeterminedError
        If nothing is recorded of any file that is here.
    TinyLoraError
        If there is no such directory or repository.
    """
    progress = progress or NoProgress()
    remote = look(source) if names_repository(source) else None
    directory = remote.directory if remote else locate(source)
    directory = directory if directory.is_dir() else directory.parent
    here = _files_in(directory)
    if remote:
        records = {name: file.record for name, file in remote.files.items()}
    else:
        records = {name: hub_record(path, directory) for name, path in here.items()}
    if not any(records.get(name) for name in here):
        raise UndeterminedError(
            "nothing records what the Hub has of these files",
            where=directory,
            hint="Name the repository that they are from, hf://owner/name, or fetch them by `hf download`.",
        )
    progress.start("Comparing", sum(here[name].stat().st_size for name in here if records.get(name)))

    def verdict(name: str) -> FileVerdict:
        record, path = records.get(name), here.get(name)
        if path is None:
            return FileVerdict(name, "not-here", remote.files[name].size if remote else 0, _digest(record))
        size = path.stat().st_size
        if record is None:
            return FileVerdict(name, "not-recorded", size, None)
        same = record.is_of(path)
        progress.advance(size)
        return FileVerdict(name, "same" if same else "differs", size, record.digest)

    with Workers(2) as pool:
        found = list(pool.map(verdict, sorted({*records, *here})))
    return FilesReport(
        kind="files",
        path=shown(directory),
        ok=all(one.verdict != "differs" for one in found),
        recorded_by=str(remote.repository) if remote else "huggingface_hub, when it downloaded them",
        files=found,
        warnings=[],
    )


def _files_in(directory: Path) -> dict[str, Path]:
    """Every file of a repository that is here, by its name; not what huggingface_hub notes of it."""
    found = {path.relative_to(directory): path for path in sorted(directory.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in found.items() if name.parts[0] != ".cache"}


def _digest(record: HubRecord | None) -> str | None:
    return record.digest if record else None
