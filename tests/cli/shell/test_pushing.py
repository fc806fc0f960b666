"""What a command wrote is pushed, by the real huggingface_hub to a Hub on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture
from hub_uploads import Inbox, hub_taking
from huggingface_hub import ModelCard

CASE = fixture("peft021-layers")
CARD = "README.md"

Push = Callable[..., tuple[int, Any, str]]


def card(hub: Inbox) -> ModelCard:
    return ModelCard(hub.files[CARD].decode(), ignore_metadata_errors=False)


def test_nobody_is_logged_in(tmp_path: Path, pushing: Push) -> None:
    """Which is found out before the merge."""
    with hub_taking() as hub:
        line = ["merge", str(CASE.adapter), "--base", str(CASE.base), "-o", str(tmp_path / "merged")]
        code, report, _ = pushing(hub, *line, "--push-to-hub", "you/name", HF_TOKEN="")
    assert (code, report["error"]["message"]) == (1, "nobody is logged in, and a push needs an account")
    assert "hf auth login" in report["error"]["hint"]
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["merge", str(CASE.adapter)], "merged"),
        (["convert", "lora", str(CASE.adapter)], "lora"),
        (["convert", "peft", str(CASE.adapter)], "peft"),
        (["convert", "packed", str(CASE.adapter)], "packed.safetensors"),
        (["convert", "gguf", str(CASE.adapter)], "adapter.gguf"),
        (["init", str(CASE.base)], "adapter"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_a_command_wrote_is_pushed(words: list[str], output: str, tmp_path: Path, pushing: Push) -> None:
    written = tmp_path / output
    more = [] if words[0] == "init" else ["--base", str(CASE.base)]
    with hub_taking() as hub:
        code, report, said = pushing(hub, *words, *more, "-o", str(written), "--push-to-hub", "you/name")
    assert code == 0, said
    assert report["output"] == str(written)
    assert f"Pushed {written} to {hub.address}/you/name/commit/{'c' * 40}" in " ".join(said.split())
    files = {p.name: p.read_bytes() for p in (written.iterdir() if written.is_dir() else [written])}
    assert {**hub.files, CARD: b""} == {**files, CARD: b""}
    assert "tinylora" in card(hub).data.tags or "lora" in card(hub).data.tags


def test_what_was_written_stays_where_the_push_fails(tmp_path: Path, pushing: Push) -> None:
    with hub_taking(refusal=("/api/models/you/name/commit", 403)) as hub:
        line = ["init", str(CASE.base), "-o", str(tmp_path / "adapter"), "--push-to-hub", "you/name"]
        code, report, said = pushing(hub, *line)
    written = tmp_path / "adapter"
    assert (code, report["output"]) == (1, str(written))
    assert (written / "adapter_model.safetensors").is_file()
    said = " ".join(said.split())
    assert "error: hf://you/name: the Hub doesn't take it from this account (403)" in said
    assert f"{written} is written; push it with `tinylora push {written} you/name`." in said


def test_wrong_usage(tmp_path: Path, pushing: Push) -> None:
    line = ["merge", str(CASE.adapter), "--base", str(CASE.base), "-o", str(tmp_path / "m")]
    with hub_taking() as hub:
        for more in (["--private"], ["--dry-run", "--push-to-hub", "a/b"], ["--push-to-hub", "a b"]):
            assert pushing(hub, *line, *more)[0] == 2
