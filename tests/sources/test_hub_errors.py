"""What the command line says where a repository can be had, and where it can't, by the real huggingface_hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture
from hub_runs import run_beside
from hub_server import COMMIT, hub_of

WHOLE = fixture("peft021-layers")
Run = Callable[..., tuple[int, Any, str]]

#: No server listens there.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def tinylora(tmp_path: Path) -> Run:
    """Run a command with a Hub, or none, and a cache of its own: exit code, JSON, and what is said."""

    def run(address: str, *words: str, **settings: str) -> tuple[int, Any, str]:
        return run_beside(address, tmp_path / "home", *words, within=25, **settings)

    return run


@pytest.fixture
def inspect(tinylora: Run) -> Run:
    """`inspect hf://owner/name`, which downloads an adapter, and of a checkpoint only what isn't weights."""
    return lambda address, **settings: tinylora(address, "inspect", "hf://owner/name", **settings)


@pytest.fixture
def plan(tinylora: Run, tmp_path: Path) -> Run:
    """`merge --dry-run` with that base, which downloads it."""

    def run(address: str, adapter: Path = WHOLE.adapter, **settings: str) -> tuple[int, Any, str]:
        line = ["merge", str(adapter), "-o", str(tmp_path / "merged"), "--base", "hf://owner/name", "--dry-run"]
        return tinylora(address, *line, **settings)

    return run


def repository(directory: Path, source: Path, **more: str) -> Path:
    """A directory's files with others beside them, of which nothing is needed."""
    shutil.copytree(source, directory)
    for name, text in more.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def test_what_is_needed_is_had(tmp_path: Path, plan: Run) -> None:
    beside = {"consolidated__safetensors": "no", "model__fp16__safetensors": "no", "pytorch_model__bin": "no"}
    more = {"tokenizer__model__v3": "yes", "qwen__tiktoken": "yes", "model__gguf": "no", "training_args__bin": "no"}
    with hub_of(repository(tmp_path / "served", WHOLE.base, **beside, **more)) as address:
        code, report, said = plan(address)
    assert code == 0, said
    (snapshot,) = (tmp_path / "home").rglob("snapshots/*")
    assert (snapshot.name, report["base"]) == (COMMIT, f"hf://owner/name@{COMMIT}")
    have = {path.name for path in snapshot.iterdir()}
    unlike = {name.replace("__", ".") for name, text in (beside | more).items() if text == "no"}
    assert {"model.safetensors", "config.json", "tokenizer.model.v3", "qwen.tiktoken"} <= have
    assert not unlike & have
    code, offline, said = plan(NOWHERE, HF_HUB_OFFLINE="1")
    assert (code, {**offline, "seconds": 0}) == (0, {**report, "seconds": 0}), said


def test_bin_where_there_is_nothing_else(inspect: Run) -> None:
    with hub_of(fixture("peft021-pickled").adapter) as address:
        code, report, said = inspect(address)
    assert code == 0, said
    assert report["path"].endswith("adapter_model.bin")


NOT_FOUND, GATED = {"X-Error-Code": "RepoNotFound"}, {"X-Error-Code": "GatedRepo"}


@pytest.mark.parametrize(
    ("refusal", "settings", "what", "hint"),
    [
        ((404, NOT_FOUND), {}, "the Hub has no such repository, or it is private", "Check the name. `hf auth login`"),
        ((401, NOT_FOUND), {}, "the Hub has no such repository, or it is private", "Check the name. `hf auth login`"),
        ((401, {}), {}, "the Hub refuses it (401)", "Is the token still good?"),
        ((429, {"Retry-After": "7"}), {}, "the Hub takes no more requests from here for now (429)", "Try again in"),
        ((500, {}), {}, "the Hub fails (500)", "Try again later"),
        ((403, GATED), {}, "it is gated, and nobody is logged in", "Ask for access on "),
        ((403, GATED), {"HF_TOKEN": "hf_x"}, "it is gated, and the account that is logged in has no access", "Ask for"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), {}, "the repository has no revision 'main'", "Name one of its"),
    ],
)
def test_refusals_are_told_apart(
    refusal: tuple[int, dict[str, str]],
    settings: dict[str, str],
    what: str,
    hint: str,
    tmp_path: Path,
    inspect: Run,
) -> None:
    with hub_of(tmp_path, refusal=refusal) as address:
        code, report, said = inspect(address, **settings)
    assert code == 1
    assert report["error"]["where"] == "hf://owner/name"
    assert report["error"]["message"].startswith(what), said
    assert report["error"]["hint"].startswith(hint)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("cached", "offline"),
    [
        ("nothing", False), ("config.json", True), ("all but a shard", False),
        *(pytest.param(cached, offline, marks=pytest.mark.slow) for cached, offline in (
            ("nothing", True), ("config.json", False), ("all but a shard", True),
        )),
    ],
)  # fmt: skip
def test_without_the_hub(cached: str, offline: bool, tmp_path: Path, inspect: Run, plan: Run) -> None:
    """Not in the cache, or a part of it: each is said, with what to do."""
    if cached != "nothing":
        case = fixture("peft020-seed-only")
        with hub_of(case.base) as address:
            assert plan(address, case.adapter)[0] == 0
        for snapshot in (tmp_path / "home").rglob("snapshots/*"):
            files = sorted(snapshot.glob("*.safetensors"))
            for path in files[:1] if cached == "all but a shard" else files:
                path.resolve().unlink()
                path.unlink()
    code, report, said = inspect(NOWHERE, **({"HF_HUB_OFFLINE": "1"} if offline else {}))
    assert code == 1, report
    error = report["error"]
    if offline:
        assert "HF_HUB_OFFLINE is set" in error["message"], said
        assert "hf download owner/name" in error["hint"]
        assert "or unset HF_HUB_OFFLINE" in error["hint"]
    else:
        assert "the Hub can't be reached" in error["message"], said
        assert "HF_ENDPOINT" in error["hint"]
    whole = {"nothing": "isn't in the", "config.json": "", "all but a shard": ""}[cached]
    assert whole in error["message"]
    assert "Traceback" not in said
