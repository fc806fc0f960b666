"""Repositories on the Hub that are written to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TinyLoraError
from ..workers import left_to_itself
from .bars import as_told
from .hub_errors import told
from .repository import HUB_PREFIX, Repository, names_repository, parsed

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of an upload: the commit with its page, or the pull request that has it."""

    url: str
    commit: str
    pull_request: str | None


def target(repository: str, revision: str | None = None) -> Repository:
    """The repository of that name, `owner/name` or as sources are named, and a branch of it.

    Raises
    ------
    FormatError
        If it can't be one.
    """
    found = parsed(repository if names_repository(repository) else HUB_PREFIX + repository)
    return found if revision is None else parsed(str(Repository(found.id, revision)))


def require_login(repository: Repository) -> None:
    """Raise TinyLoraError where nobody may write there, as far as this machine can tell: before long work."""
    from huggingface_hub import constants, get_token

    what, hint = "", ""
    if constants.HF_HUB_OFFLINE:
        what, hint = "nothing is pushed while HF_HUB_OFFLINE is set", "Unset it."
    elif not get_token():
        what = "nobody is logged in, and a push needs an account"
        hint = "`hf auth login` with a token that may write, or HF_TOKEN."
    if what:
        raise TinyLoraError(what, where=str(repository), hint=hint)


def upload(
    files: Mapping[str, Path],
    texts: Mapping[str, str],
    repository: Repository,
    *,
    private: bool = False,
    create_pr: bool = False,
    message: str | None = None,
) -> Uploaded:
    """Write files to a repository, which is made if it isn't there, in one commit or, of many, in several.

    Parameters
    ----------
    files : Mapping
        By their names in the repository.
    texts : Mapping
        More files, by their content.
    repository : Repository
        Its revision is a branch, which is made if it isn't there.
    private : bool
        What a repository that is made becomes.
    create_pr : bool
        Propose the change instead of making it.
    message : str, optional
        The commit's.

    Raises
    ------
    TinyLoraError
        If the Hub refuses it, or can't be reached.
    """
    api, source, branch = _client(), str(repository), repository.revision
    with told(repository, source, writing=True), as_told(), tempfile.TemporaryDirectory() as directory:
        if not create_pr:
            api.create_repo(repository.id, private=private or None, exist_ok=True)
            if branch is not None and not branch.startswith("refs/"):
                api.create_branch(repository.id, branch=branch, exist_ok=True)
        outbox = Path(directory)
        for name, path in files.items():
            (outbox / name).parent.mkdir(parents=True, exist_ok=True)
            (outbox / name).symlink_to(path.absolute())
        for name, text in texts.items():
            (outbox / name).write_text(text, "utf-8")
        done = api.upload_folder(
            repo_id=repository.id,
            folder_path=outbox,
            revision=branch,
            create_pr=create_pr,
            commit_message=message or "Upload by tinylora-tools",
        )
        return Uploaded(done.commit_url, done.oid, done.pr_url)


def _client() -> HfApi:
    """huggingface_hub's, of which an interrupt ends the uploads at once; nothing is committed then."""
    from huggingface_hub import HfApi

    class Client(HfApi):
        def preupload_lfs_files(self, *arguments: Any, **given: Any) -> None:
            left_to_itself(partial(super().preupload_lfs_files, *arguments, **given))

    return Client(library_name="tinylora-tools")
