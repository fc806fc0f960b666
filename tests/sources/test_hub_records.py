"""What the real huggingface_hub leaves of a file's digest, in its cache and beside a download, is found and true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from fixture_data import ROOT
from hub_server import git_sha1, hub_of

from tinylora_tools.output.manifest import file_digest
from tinylora_tools.sources.hub_records import hub_record

BASE = ROOT / "bases" / "qwen2-bf16"
WEIGHTS = "model.safetensors"


@pytest.fixture(params=["cache_dir", "local_dir"])
def downloaded(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """A repository as it is downloaded into the cache, or into a directory."""

    def download(**given: tuple[str, ...]) -> Path:
        with hub_of(BASE, **given) as address:
            return Path(
                huggingface_hub.snapshot_download(
                    "owner/name", endpoint=address, **{request.param: tmp_path / "here"}, token=False
                )
            )

    return download


def test_weights_by_their_sha256(downloaded: Callable[..., Path]) -> None:
    directory = downloaded()
    record = hub_record(directory / WEIGHTS, directory)
    assert record is not None
    assert record.digest == file_digest(BASE / WEIGHTS)
    assert record.is_of(directory / WEIGHTS)


def test_a_bit_that_flipped(downloaded: Callable[..., Path]) -> None:
    directory = downloaded()
    data = bytearray((directory / WEIGHTS).read_bytes())
    data[-5] ^= 4
    (directory / WEIGHTS).resolve().write_bytes(data)
    record = hub_record(directory / WEIGHTS, directory)
    assert record is not None
    assert not record.is_of(directory / WEIGHTS)


def test_what_is_kept_by_git_by_its_sha1(downloaded: Callable[..., Path]) -> None:
    directory = downloaded(lfs=("nothing",))
    record = hub_record(directory / WEIGHTS, directory)
    assert record is not None
    assert record.digest == git_sha1((BASE / WEIGHTS).read_bytes())
    assert record.is_of(directory / WEIGHTS)
    assert not record.is_of(directory / "config.json")


def test_where_nothing_is_recorded(tmp_path: Path) -> None:
    assert hub_record(BASE / WEIGHTS, BASE) is None
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / WEIGHTS).write_bytes(b"")
    assert hub_record(tmp_path / "blobs" / WEIGHTS, tmp_path) is None
    assert hub_record(BASE / WEIGHTS, tmp_path) is None  # of another directory


@pytest.mark.parametrize("text", [b"", b"a\n", b"commit\nnothing\n0\n", b"\xff\xfe\n\xff\n", b"x" * 5000])
def test_notes_that_are_damaged(tmp_path: Path, text: bytes) -> None:
    note = tmp_path / ".cache" / "huggingface" / "download" / f"{WEIGHTS}.metadata"
    note.parent.mkdir(parents=True)
    note.write_bytes(text)
    assert hub_record(tmp_path / WEIGHTS, tmp_path) is None
