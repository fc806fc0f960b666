"""Which base a merge is made of: the one that is named, or that its adapters name, wherever that is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edited_files import edited_copy
from fixture_data import fixture
from hub_runs import run_beside
from hub_server import COMMIT, Hub, hub_serving

from tinylora_tools import merge

CASE = fixture("peft021-layers")
SOURCE = "hf://owner/name"

Merged = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def merged(tmp_path: Path) -> Merged:
    """Merge beside a Hub, with a cache of its own."""

    def run(hub: Hub, adapter: Path, output: str, *more: str, **settings: str) -> tuple[int, Any, str]:
        line = ["merge", str(adapter), "-o", str(tmp_path / output), *more]
        return run_beside(hub.address, tmp_path / "home", *line, **settings)

    return run


def test_the_adapter_s_own_base_is_downloaded(tmp_path: Path, merged: Merged) -> None:
    """With the revision that it names; and once: the second merge finds it in the cache."""
    adapter = edited_copy(CASE.name, tmp_path / "adapter", base_model_name_or_path="owner/name", revision="v1")
    merge(CASE.adapter, tmp_path / "wanted", CASE.base)
    with hub_serving(CASE.base) as hub:
        code, report, said = merged(hub, adapter, "merged")
        assert code == 0, said
        assert any("/revision/v1" in asked for asked in hub.asked)
        sent = hub.sent
        again = merged(hub, adapter, "again", HF_HUB_OFFLINE="1")
        assert again[0] == 0, again[2]
        assert hub.sent == sent == (CASE.base / "model.safetensors").stat().st_size
    assert report["base"] == again[1]["base"] == f"{SOURCE}@{COMMIT}"
    for output in ("merged", "again"):
        name = "model.safetensors"
        assert (tmp_path / output / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes()


def test_a_base_that_cannot_be_had_is_asked_for(tmp_path: Path, merged: Merged) -> None:
    adapter = edited_copy(CASE.name, tmp_path / "adapter", base_model_name_or_path="owner/name")
    with hub_serving(tmp_path, refusal=(404, {"X-Error-Code": "RepoNotFound"})) as hub:
        code, report, _ = merged(hub, adapter, "merged")
    assert code == 1
    error = report["error"]
    assert error["message"].startswith("names 'owner/name' as its base, which isn't at hand: the Hub has no such")
    assert error["hint"].endswith("Say with --base DIR where its directory is.")


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--base", str(CASE.base), "--stream-base"], "is on this machine, so that nothing of it is streamed"),
        (["--base", SOURCE, "--stream-base", "--manifest"], "each tensor of the base, which would be sent twice"),
    ],
)
def test_what_cannot_be_streamed(more: list[str], what: str, tmp_path: Path, merged: Merged) -> None:
    with hub_serving(CASE.base) as hub:
        code, report, _ = merged(hub, CASE.adapter, "merged", *more)
    assert code == 1
    assert what in report["error"]["message"]
    assert "--stream-base" in report["error"]["hint"]
