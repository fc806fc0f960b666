"""Local paths and repositories on the Hub, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from tinylora_tools.errors import FormatError, TinyLoraError
from tinylora_tools.sources.locate import base_name, locate, locate_base

EXPECTED = "Write hf://owner/name, with @revision behind it for another than main."


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What is asked of the Hub, which answers with a directory."""
    found: list[tuple[Any, ...]] = []

    def snapshot_download(
        repository: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        found.append((repository, revision))
        assert {"*.safetensors", "*.json"} <= set(allow_patterns)
        assert not {"*.msgpack", "*.h5", "*.gguf", "*", "*.bin"} & set(allow_patterns)
        assert {"consolidated*", "*.fp16.*"} <= set(ignore_patterns)
        (tmp_path / "snapshot").mkdir()
        (tmp_path / "snapshot" / "model.safetensors").touch()
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("tinylora_tools.sources.locate.look", lambda _: None)  # as where the Hub can't be asked
    return found


@pytest.mark.parametrize(
    ("source", "repository", "revision"),
    [
        ("hf://Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", None),
        ("hf://Qwen/Qwen2.5-0.5B@v1.0", "Qwen/Qwen2.5-0.5B", "v1.0"),
        ("hf://Qwen/Qwen2.5-0.5B@refs/pr/3", "Qwen/Qwen2.5-0.5B", "refs/pr/3"),
    ],
)
def test_a_repository_is_downloaded_at_its_revision(
    source: str, repository: str, revision: str | None, asked: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    assert locate(source) == tmp_path / "snapshot"
    assert asked == [(repository, revision)]
    assert base_name(source) == repository


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("hf://", "isn't a repository on the Hub: "),
        ("hf://gpt2", "isn't a repository on the Hub: "),
        ("hf://owner/na me", "isn't a repository on the Hub: "),
        ("hf://owner/name@", "isn't a repository on the Hub: "),
        ("hf://datasets/owner/name", "expected a model's repository, this is a dataset"),
        ("hf://owner/name/sub/x.bin", "expected a model's repository, this is the file sub/x.bin in one"),
    ],
)  # fmt: skip
def test_what_is_no_model_s_repository_is_refused(source: str, what: str, asked: list[tuple[Any, ...]]) -> None:
    for verb in (locate, base_name):
        with pytest.raises(FormatError) as caught:
            verb(source)
        assert str(caught.value).startswith(f"{source}: {what}")
        assert caught.value.hint == EXPECTED
    assert asked == []


def test_a_path_that_looks_like_a_repository_is_a_path(asked: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Only text can name a repository; a Path of the same letters can't."""
    with pytest.raises(FormatError, match="no such file or directory"):
        locate(Path("hf://owner/name"))
    assert asked == []


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder\nand more of it"),
        OSError("Cannot find an appropriate cached snapshot folder\nand more of it"),
        ValueError("\nCannot find an appropriate cached snapshot folder\nand more of it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_hub_says_is_passed_on_in_a_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("tinylora_tools.sources.locate.look", lambda _: None)  # as where the Hub can't be asked
    with pytest.raises(TinyLoraError) as caught:
        locate("hf://owner/name")
    assert str(caught.value) == (
        "hf://owner/name: can't be had from the Hub: Cannot find an appropriate cached snapshot folder"
    )
    assert "HF_TOKEN opens private repositories" in (caught.value.hint or "")


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert locate("~") == tmp_path / "home"
    assert locate(tmp_path / "home") == tmp_path / "home"
    for source, hint in (
        ("some/model", "Check the spelling. For a repository on the Hub, write hf://some/model."),
        ("./model", "Check the spelling."),
        ("a/b/c", "Check the spelling."),
        ("~nobody-is-called-so/model", "Check the spelling."),
    ):
        with pytest.raises(FormatError) as caught:
            locate(source)
        assert str(caught.value) == f"{source}: no such file or directory"
        assert caught.value.hint == hint


def test_a_base_is_named_by_its_path_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through links, since those may lead elsewhere tomorrow."""
    (tmp_path / "here" / "base").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "here" / "base")
    monkeypatch.chdir(tmp_path / "here")
    assert base_name("base") == base_name(tmp_path / "here" / "base") == base_name("../link") == "base"
    assert base_name("..") == str(tmp_path.resolve())


def cached(hub: Path, repository: str, revision: str, name: str) -> Path:
    """A repository as the Hub's cache holds it."""
    root = hub / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / revision).write_text("0" * 40)
    (root / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (root / "snapshots" / ("0" * 40) / name).write_text("{}")
    return root / "snapshots" / ("0" * 40)


def test_a_base_at_hand_is_a_directory_or_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[Any, ...]]
) -> None:
    """From here first, then beside the adapter; nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    beside = tmp_path / "adapter"
    (beside / "owner" / "base").mkdir(parents=True)
    assert locate_base("owner/base", None, beside) == beside / "owner" / "base"
    (tmp_path / "owner" / "base").mkdir(parents=True)
    assert locate_base("owner/base", None, beside) == Path("owner/base")
    assert locate_base("owner/name", None, beside) is None
    at = cached(tmp_path / "hub", "owner/name", "main", "config.json")
    assert locate_base("owner/name", None, beside) == at
    assert locate_base("owner/name", "v2", beside) is None
    cached(tmp_path / "hub", "owner/other", "main", "README.md")
    assert locate_base("owner/other", None, beside) is None
    for name in ("./base", "gpt2", "x" * 300, "~nobody-is-called-so/base", "/not/here"):
        assert locate_base(name, None, beside) is None
    (tmp_path / "file").touch()
    assert locate_base("file", None, beside) is None
    assert asked == []


def test_a_base_where_one_may_not_look_is_not_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look everywhere, so the system's answer is made up."""
    beside = tmp_path / "adapter"
    (beside / "secret").mkdir(parents=True)
    real = Path.is_dir

    def is_dir(path: Path) -> bool:
        if path == Path("secret"):
            raise PermissionError(13, "Permission denied", "secret")
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert locate_base("secret", None, beside) == beside / "secret"
