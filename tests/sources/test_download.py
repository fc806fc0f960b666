"""What is downloaded, by the real huggingface_hub, through whatever trouble, and what the cache has of it later."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edited_files import edited_copy
from fixture_data import fixture
from hub_runs import run_beside, started, told_to_end
from hub_server import COMMIT, Hub, hub_serving

CASE = fixture("peft021-layers")
SOURCE = "hf://owner/name"
WEIGHTS = "model.safetensors"
NOWHERE = "http://127.0.0.1:9"

Tinylora = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def tinylora(tmp_path: Path) -> Tinylora:
    def run(hub: Hub | None, *words: str, **settings: str) -> tuple[int, Any, str]:
        address = hub.address if hub else NOWHERE
        return run_beside(address, tmp_path / "home", *words, **settings)

    return run


def plan(tmp_path: Path, adapter: Path = CASE.adapter) -> list[str]:
    """A command that needs the whole base."""
    return ["merge", str(adapter), "-o", str(tmp_path / "merged"), "--base", SOURCE, "--dry-run"]


def snapshot(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "home").rglob("snapshots/*")
    return found


@pytest.mark.parametrize("trouble", [[(500, {})], ["cut"], ["slow"], [(429, {"Retry-After": "1"})]], ids=str)
def test_trouble_that_passes(trouble: list[Any], tmp_path: Path, tinylora: Tinylora) -> None:
    with hub_serving(CASE.base, trouble=trouble) as hub:
        code, _, said = tinylora(hub, *plan(tmp_path))
        if code:  # what huggingface_hub doesn't try again, who runs the command again gets
            assert "next: " in said
            code, _, said = tinylora(hub, *plan(tmp_path))
        assert hub.trouble == []
    assert code == 0, said
    assert (snapshot(tmp_path) / WEIGHTS).read_bytes() == (CASE.base / WEIGHTS).read_bytes()


def test_a_list_of_files_that_leads_out_is_refused(tmp_path: Path, tinylora: Tinylora) -> None:
    with hub_serving(CASE.base, listed=["../../evil.json"]) as hub:
        code, report, _ = tinylora(hub, *plan(tmp_path))
    assert code == 1
    assert "the repository lists a file '../../evil.json', which would be outside of it" in report["error"]["message"]
    assert not list(tmp_path.rglob("evil.json"))


def test_what_was_looked_at_from_afar_is_known_later(tmp_path: Path, tinylora: Tinylora) -> None:
    """Its configuration tells an adapter's architecture without a network; its weights are missed by name."""
    adapter = edited_copy(CASE.name, tmp_path / "adapter", base_model_name_or_path="owner/name")
    offline = {"HF_HUB_OFFLINE": "1"}
    assert tinylora(None, "inspect", str(adapter))[1]["order_from"] != "architecture"
    with hub_serving(CASE.base) as hub:
        assert tinylora(hub, "inspect", SOURCE)[0] == 0
    assert (snapshot(tmp_path).name, (snapshot(tmp_path) / WEIGHTS).exists()) == (COMMIT, False)
    for settings in (offline, {}):
        code, report, said = tinylora(None, "inspect", str(adapter), **settings)
        assert code == 0, said
        assert report["base_model"] == "owner/name"
        code, report, _ = tinylora(None, "convert", "lora", str(adapter), "-o", str(tmp_path / str(len(settings))))
        assert code == 0, report
    code, report, _ = tinylora(None, "inspect", SOURCE, **offline)
    assert (code, "HF_HUB_OFFLINE is set" in report["error"]["message"]) == (1, True)
    code, report, _ = tinylora(None, "merge", str(adapter), "-o", str(tmp_path / "m"), **offline)
    assert (code, "names 'owner/name' as its base, which isn't at hand" in report["error"]["message"]) == (1, True)
    code, report, _ = tinylora(None, "verify-base", str(adapter), **offline)
    assert (code, report["error"]["message"]) == (1, "the adapter's base isn't at hand")
    assert "download it with --base hf://owner/name" in report["error"]["hint"]


def test_a_branch_is_followed(tmp_path: Path, tinylora: Tinylora) -> None:
    """What the cache has of another commit isn't what is looked at."""
    with hub_serving(CASE.base) as hub:
        for source in (SOURCE, f"{SOURCE}@main", f"{SOURCE}@{COMMIT}"):
            code, report, said = tinylora(hub, "inspect", source)
            assert (code, report["path"]) == (0, f"{SOURCE}@{COMMIT}"), said
    refs = snapshot(tmp_path).parents[1] / "refs"
    assert (refs / "main").read_text() == COMMIT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_it_ends_when_it_is_told_to(number: signal.Signals, tmp_path: Path) -> None:
    """In the middle of shards that take for ever: at once, and what came is there for the next time."""
    case = fixture("peft021-no-autocast")
    words = plan(tmp_path, case.adapter)
    with hub_serving(case.base, trouble=["stuck"] * 3) as hub:
        run = started(hub.address, tmp_path / "home", *words)
        assert hub.reached.wait(60)
        code, said = told_to_end(run, number)
        assert code == 128 + number, said
        assert "Traceback" not in said
        hub.gone.set()
        code, _, said = run_beside(hub.address, tmp_path / "home", *words)
        assert code == 0, said
