"""Merges into a base on the Hub that isn't downloaded, and what is left of one that was interrupted."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture
from hub_runs import finished, run_beside, started
from hub_server import COMMIT, Hub, hub_serving

from tinylora_tools import merge

CASE = fixture("peft020-seed-only")
ONE_FILE = fixture("peft021-layers")
SOURCE = "hf://owner/name"


def line(tmp_path: Path, case: Any = CASE) -> list[str]:
    """A merge into a Hub's base that isn't downloaded."""
    return ["merge", str(case.adapter), "-o", str(tmp_path / "merged"), "--base", SOURCE, "--stream-base"]


Streamed = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def streamed(tmp_path: Path) -> Streamed:
    """Run one."""

    def run(hub: Hub, case: Any = CASE, *more: str) -> tuple[int, Any, str]:
        return run_beside(hub.address, tmp_path / "home", *line(tmp_path, case), *more)

    return run


def files(directory: Path) -> dict[str, bytes]:
    """A merged model's bytes; but for its card, which says what the base is called."""
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != "README.md"}


def weights(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def downloaded(home: Path) -> list[Path]:
    return sorted(home.rglob("snapshots/*/*.safetensors"))


@pytest.mark.parametrize("case", [CASE, ONE_FILE], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_the_bytes_are_those_of_a_merge_of_files(case: Any, dtype: str, tmp_path: Path, streamed: Streamed) -> None:
    """Each byte is sent about once, and nothing is kept of them but the output."""
    merge(case.adapter, tmp_path / "wanted", case.base, dtype=dtype)
    with hub_serving(case.base) as hub:
        code, report, said = streamed(hub, case, "--dtype", dtype)
        assert code == 0, said
        assert hub.sent <= weights(case.base) + 4 * (33 << 10)
    assert report["base"] == f"{SOURCE}@{COMMIT}"
    assert files(tmp_path / "merged") == files(tmp_path / "wanted")
    assert downloaded(tmp_path / "home") == []
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("how", ["the Hub fails", "the run is interrupted", "the run is killed"])
def test_an_interrupted_merge_goes_on_behind_the_last_whole_shard(how: str, tmp_path: Path, streamed: Streamed) -> None:
    merge(CASE.adapter, tmp_path / "wanted", CASE.base)
    shards = sorted(CASE.base.glob("*.safetensors"))
    with hub_serving(CASE.base) as hub:
        hub.withheld, hub.refused = shards[-1].name, how == "the Hub fails"
        run = started(hub.address, tmp_path / "home", *line(tmp_path))
        parts = tmp_path / ".merged.tinylora-partial" / "parts"
        if how != "the Hub fails":
            while not (parts / f"{shards[-2].name}.json").exists() and run.poll() is None:
                time.sleep(0.01)
            run.send_signal(signal.SIGINT if how == "the run is interrupted" else signal.SIGKILL)
            hub.withheld = None
        code, _, said = finished(run)
        assert code == {"the Hub fails": 1, "the run is interrupted": 130, "the run is killed": -9}[how], said
        assert not (tmp_path / "merged").exists()
        assert (parts / shards[0].name).read_bytes() == (tmp_path / "wanted" / shards[0].name).read_bytes()
        hub.withheld, hub.sent = None, 0
        code, report, said = streamed(hub)
        assert code == 0, said
        assert hub.sent <= shards[-1].stat().st_size + len(shards) * (33 << 10)
    assert files(tmp_path / "merged") == files(tmp_path / "wanted")
    assert report["modules_merged"] == len({row["name"] for row in report["modules"]}) == len(CASE.modules)
    assert not parts.exists()


def test_what_another_merge_left_is_not_taken(tmp_path: Path, streamed: Streamed) -> None:
    merge(CASE.adapter, tmp_path / "wanted", CASE.base, scale=0.5)
    shards = sorted(CASE.base.glob("*.safetensors"))
    with hub_serving(CASE.base) as hub:
        hub.withheld, hub.refused = shards[-1].name, True
        assert streamed(hub)[0] == 1
        hub.withheld = None
        code, _, said = streamed(hub, CASE, "--scale", "0.5")
        assert code == 0, said
    assert files(tmp_path / "merged") == files(tmp_path / "wanted")
