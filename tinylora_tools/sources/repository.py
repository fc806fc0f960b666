"""Repositories of models on the Hub, by name (`hf://owner/name[@revision]`) or by the address of their page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import quote, unquote

from ..errors import FormatError

HUB_PREFIX = "hf://"

#: Where the Hub is, for addresses that people copy.
_PAGES = ("https://huggingface.co/", "https://hf.co/")

_EXPECTED = f"Write {HUB_PREFIX}owner/name, with @revision behind it for another than main."
_KINDS = {"datasets": "dataset", "spaces": "space", "buckets": "bucket", "kernels": "kernel"}

#: An owner or a name; a step of a revision, of which some have several (feature/x); those that the Hub itself makes.
_PART = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?", re.ASCII)
_STEP = re.compile(r"(?!\.)[\w.+-]+(?<!\.lock)", re.ASCII)
_SPECIAL = re.compile(r"refs/(?:pr/\d+|convert/[\w.-]+)(?=/|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Repository:
    """A model's repository; `revision` is a branch, a tag or a commit, None for main."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        revision = self.revision or ""
        written = revision if _SPECIAL.fullmatch(revision) else quote(revision, safe="")
        return f"{HUB_PREFIX}{self.id}" + (f"@{written}" if written else "")


def names_repository(source: object) -> TypeGuard[str]:
    """Whether a source is text that names a repository, well or badly."""
    return isinstance(source, str) and source.startswith((HUB_PREFIX, *_PAGES))


def parsed(source: str) -> Repository:
    """The repository that a source names.

    Raises
    ------
    FormatError
        If it can't be one, or is of something else than a model.
    """
    page = next((page for page in _PAGES if source.startswith(page)), None)
    rest = source.removeprefix(page or HUB_PREFIX)
    if page:
        rest = rest.partition("?")[0].partition("#")[0].rstrip("/")
    kind, _, inside = rest.partition("/")
    if kind in _KINDS:
        raise _refused(source, f"expected a model's repository, this is a {_KINDS[kind]}")
    if kind == "models":
        rest = inside
    return _of_page(source, rest) if page else _of_uri(source, rest)


def _of_uri(source: str, rest: str) -> Repository:
    name, at, behind = rest.partition("@")
    owner, _, name = name.partition("/")
    name, _, path = name.partition("/")
    if not at:
        return _sound(source, owner, name, None, path)
    special = _SPECIAL.match(behind)
    revision = special[0] if special else behind.partition("/")[0]
    return _sound(source, owner, name, unquote(revision), behind[len(revision) :].lstrip("/"))


def _of_page(source: str, rest: str) -> Repository:
    owner, name, what, behind = [*rest.split("/", 3), "", "", ""][:4]
    if what in ("blob", "resolve", "raw"):
        raise _refused(source, f"expected a model's repository, this is the file {behind.partition('/')[2]} in one")
    if what not in ("", "tree", "commit"):
        raise _refused(source, "isn't a repository on the Hub: it is another page of one")
    return _sound(source, owner, name, unquote(behind) if what else None, "")


def _sound(source: str, owner: str, name: str, revision: str | None, path: str) -> Repository:
    for part in (owner, name):
        if not _PART.fullmatch(part) or ".." in part or "--" in part or part.endswith(".git"):
            raise _refused(source, f"isn't a repository on the Hub: {part!r} can't be an owner or a name")
    if revision is not None and not all(_STEP.fullmatch(step) for step in revision.split("/")):
        raise _refused(source, f"isn't a repository on the Hub: {revision!r} can't be a revision")
    if path:
        raise _refused(source, f"expected a model's repository, this is the file {path} in one")
    return Repository(f"{owner}/{name}", revision)


def _refused(source: str, what: str) -> FormatError:
    return FormatError(what, where=source, hint=_EXPECTED)
