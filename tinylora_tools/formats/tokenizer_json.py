"""tokenizer.json, with the digest of its merges in place of them: half a million pairs of texts would take more memory
than a whole merge does."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ..inputs import read_input

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'

#: A key that a list follows. Inside of a string its quotes would have backslashes, and a token has a number behind it.
_MERGES = re.compile(rb'"merges"\s*:\s*\[\s*')

#: One merge: a pair of tokens, or as older releases wrote it, both in one string with a space between.
_MERGE = re.compile(
    rb"(?:\[\s*(" + _STRING + rb")\s*,\s*(" + _STRING + rb")\s*\]|(" + _STRING + rb"))\s*(?:,\s*|(?=\]))"
)


def read_tokenizer_json(path: Path) -> Any:
    """The file's content, `merges` (where it is a list) as a digest of the pairs.

    Raises
    ------
    ValueError
        If it isn't JSON.
    """
    data = read_input(path)
    start = _MERGES.search(data)
    if start is not None:
        digest, end = _digest(data, start.end())
        if data[end : end + 1] == b"]":
            data = data[: start.end()].rstrip()[:-1] + f'"{digest}"'.encode() + data[end + 1 :]
    return json.loads(data)


def _digest(data: bytes, position: int) -> tuple[str, int]:
    """The digest of the merges from a place on, and where they end."""
    found = hashlib.sha256()
    match = _MERGE.match(data, position)
    while match is not None:
        one, two, both = match.groups()
        found.update(b"%b\n" % _text(both) if both else b"%b %b\n" % (_text(one), _text(two)))
        position = match.end()
        match = _MERGE.match(data, position)
    return found.hexdigest(), position


def _text(string: bytes) -> bytes:
    """A JSON string's text."""
    return string[1:-1] if b"\\" not in string else str(json.loads(string)).encode("utf-8", errors="surrogatepass")
