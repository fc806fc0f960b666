"""What the Hub takes, and what it refuses, by the real huggingface_hub."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture
from hub_runs import started, told_to_end
from hub_uploads import hub_taking

from tinylora_tools.errors import FormatError
from tinylora_tools.sources.repository import Repository
from tinylora_tools.sources.upload import target

CASE = fixture("peft021-layers")
CARD = "README.md"

Push = Callable[..., tuple[int, Any, str]]


@pytest.mark.parametrize(
    ("name", "revision", "found"),
    [
        ("you/name", None, Repository("you/name")),
        ("hf://you/name@v1", None, Repository("you/name", "v1")),
        ("https://huggingface.co/you/name", "feature/x", Repository("you/name", "feature/x")),
    ],
)
def test_where_to(name: str, revision: str | None, found: Repository) -> None:
    assert target(name, revision) == found


@pytest.mark.parametrize("name", ["name", "a b/c", "you/name/file", "datasets/you/name", "../x", ""])
def test_what_can_be_no_repository(name: str) -> None:
    with pytest.raises(FormatError):
        target(name)


def test_a_branch_and_a_pull_request(pushing: Push) -> None:
    with hub_taking() as hub:
        code, report, said = pushing(hub, "push", str(CASE.adapter), "you/name", "--revision", "v1")
        assert code == 0, said
        assert {"branch": "v1"} in hub.made
        code, report, said = pushing(hub, "push", str(CASE.adapter), "hf://you/name", "--create-pr")
        assert code == 0, said
    assert report["pull_request"] == f"{hub.address}/you/name/discussions/1"
    assert [(one["branch"], one["pull"]) for one in hub.commits] == [("v1", False), ("main", True)]


@pytest.mark.parametrize("trouble", [[500], ["cut"], [503, 500]], ids=str)
def test_trouble_that_passes(trouble: list[Any], pushing: Push) -> None:
    with hub_taking(trouble=trouble) as hub:
        code, _, said = pushing(hub, "push", str(CASE.adapter), "you/name")
    assert code == 0, said
    weights = "adapter_model.safetensors"
    assert hub.files[weights] == (CASE.adapter / weights).read_bytes()


@pytest.mark.parametrize(
    ("refusal", "what"),
    [
        (("/api/models/you/name/preupload", 401), "the Hub doesn't take it from this account (401)"),
        (("/api/models/you/name/commit", 403), "the Hub doesn't take it from this account (403)"),
    ],
)
def test_refusals(refusal: tuple[str, int], what: str, pushing: Push) -> None:
    with hub_taking(refusal=refusal) as hub:
        code, report, said = pushing(hub, "push", str(CASE.adapter), "you/name")
    assert (code, report["error"]["message"], hub.files) == (1, what, {}), said
    assert report["error"]["hint"] == "Log in with a token that may write there."
    assert "Traceback" not in said


def test_too_many_requests(pushing: Push) -> None:
    with hub_taking(refusal=("/api/models/you/name/commit", 429)) as hub:
        code, report, said = pushing(hub, "push", str(CASE.adapter), "you/name")
    assert (code, report["error"]["message"], hub.commits) == (
        1,
        "the Hub takes no more requests from here for now (429)",
        [],
    ), said
    assert report["error"]["hint"] == "Push again in a few minutes."


def test_a_repository_that_is_not_there(pushing: Push) -> None:
    with hub_taking(refusal=("/api/models/you/name/preupload", 404)) as hub:
        code, report, said = pushing(hub, "push", str(CASE.adapter), "you/name", "--create-pr")
    assert (code, report["error"]["message"]) == (1, "the Hub has no such repository, or no such branch"), said
    assert report["error"]["hint"] == "Check the name; a pull request needs one that is there."


def test_no_hub_to_push_to(pushing: Push) -> None:
    with hub_taking() as hub:
        hub.address = "http://127.0.0.1:9"
        code, report, said = pushing(hub, "push", str(CASE.adapter), "you/name")
    assert (code, report["error"]["message"]) == (1, "the connection to the Hub broke, or there is none"), said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_it_ends_when_it_is_told_to(number: signal.Signals, tmp_path: Path) -> None:
    """In the middle of files that take for ever: at once, and nothing is committed."""
    adapter = tmp_path / "adapter"
    shutil.copytree(CASE.adapter, adapter)
    for name in ("one.bin", "two.bin", "three.bin"):
        (adapter / name).write_bytes(name.encode())
    with hub_taking(trouble=["stuck"] * 4) as hub:
        settings = {"HF_TOKEN": "hf_x", "HF_HUB_DISABLE_XET": "1"}
        run = started(hub.address, tmp_path, "push", str(adapter), "you/name", **settings)
        assert hub.reached.wait(60)
        code, said = told_to_end(run, number)
    assert (code, hub.commits) == (128 + number, []), said
    assert "Traceback" not in said
