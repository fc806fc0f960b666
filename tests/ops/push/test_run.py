"""What is pushed to a Hub on this machine, by the real huggingface_hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edited_files import edited_copy
from fixture_data import fixture
from hub_runs import run_beside
from hub_uploads import Inbox, hub_taking
from huggingface_hub import ModelCard

from tinylora_tools import UnsupportedError, merge, pack, push

CASE = fixture("peft021-layers")
CARD = "README.md"

Push = Callable[..., tuple[int, Any, str]]


def card(hub: Inbox) -> ModelCard:
    return ModelCard(hub.files[CARD].decode(), ignore_metadata_errors=False)


def test_a_merged_model_goes_with_its_card(tmp_path: Path, pushing: Push) -> None:
    merged = tmp_path / "merged"
    merge(CASE.adapter, merged, CASE.base)
    for litter in ("checkpoint-5/optimizer.pt", ".hidden", "runs/events", "trainer_state.json"):
        (merged / litter).parent.mkdir(exist_ok=True)
        (merged / litter).write_text("no")
    with hub_taking() as hub:
        code, report, said = pushing(hub, "push", str(merged), "you/name", "--private", "--message", "First")
    assert code == 0, said
    own = {p.name: p.read_bytes() for p in merged.iterdir() if p.is_file() and p.name[0] != "."}
    assert hub.files == {name: data for name, data in own.items() if name != "trainer_state.json"}
    assert (report["files"], report["card"]) == (sorted(hub.files), "own")
    assert (report["repository"], report["commit"], report["pull_request"]) == ("you/name", "c" * 40, None)
    assert report["bytes_pushed"] == sum(map(len, hub.files.values()))
    (made,) = hub.made
    assert (made["name"], made["organization"]) == ("name", "you")
    assert made.get("private") is True or made.get("visibility") == "private"
    assert [(one["summary"], one["branch"], one["pull"]) for one in hub.commits] == [("First", "main", False)]


def test_a_link_that_leads_out_is_not_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("tinylora_tools.sources.upload.require_login", lambda _: None)
    monkeypatch.setattr("tinylora_tools.ops.push.run.require_login", lambda _: None)
    adapter = tmp_path / "adapter"
    shutil.copytree(CASE.adapter, adapter)
    (adapter / "LICENSE").symlink_to("/proc/self/environ")
    with pytest.raises(UnsupportedError, match="is a link to /proc/self/environ, which is no file in"):
        push(adapter, "you/name")


@pytest.mark.parametrize("what", ["nothing", "an empty directory", "a text"])
def test_what_is_neither_a_model_nor_an_adapter(what: str, tmp_path: Path, pushing: Push) -> None:
    at = tmp_path / "x"
    if what == "a text":
        at.write_text("x")
    elif what == "an empty directory":
        at.mkdir()
    with hub_taking() as hub:
        code, report, _ = pushing(hub, "push", str(at), "you/name")
    expected = {
        "nothing": "no such file or directory",
        "a text": "isn't published by itself",
        "an empty directory": "holds neither a model nor an adapter",
    }
    assert (code, report["error"]["message"], hub.made) == (1, expected[what], [])


def test_a_packed_adapter_is_used_as_its_card_says(tmp_path: Path, pushing: Push) -> None:
    from hub_server import hub_serving

    pack(CASE.adapter, tmp_path / "packed.safetensors", base=CASE.base)
    with hub_taking() as hub:
        code, _, said = pushing(hub, "push", str(tmp_path / "packed.safetensors"), "you/name")
    assert code == 0, said
    served = tmp_path / "served"
    served.mkdir()
    for name, data in hub.files.items():
        (served / name).write_bytes(data)
    lines = [line.split("#")[0].split() for line in card(hub).text.splitlines() if line.startswith("tinylora ")]
    assert [line[:2] for line in lines] == [["tinylora", "merge"], ["tinylora", "convert"]]
    with hub_serving(served, others={"you/name": served}) as there:
        for line in lines:
            words = [str(tmp_path / word) if word in ("merged", "adapter") else word for word in line[1:]]
            code, _, said = run_beside(there.address, tmp_path / "home2", *words, "--base", str(CASE.base))
            assert code == 0, said
        code, report, _ = run_beside(there.address, tmp_path / "home2", "inspect", "hf://you/name")
        assert (code, report["kind"]) == (0, "tinylora-packed")
    merge(CASE.adapter, tmp_path / "wanted", CASE.base)
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (
        tmp_path / "wanted" / "model.safetensors"
    ).read_bytes()


def test_the_base_s_own_card_is_not_taken_for_an_adapter_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inbox: Inbox
) -> None:
    """Byte for byte it is refused, where the base is at hand; another that names no base, or of a model that nobody
    says was merged, is asked about."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "you" / "base").mkdir(parents=True)
    text = "---\nlicense: mit\nbase_model: you/older\n---\n# Base\n"
    (tmp_path / "you" / "base" / CARD).write_text(text)
    adapter = edited_copy(CASE.name, tmp_path / "adapter", base_model_name_or_path="you/base")
    (adapter / CARD).write_text(text)
    with pytest.raises(UnsupportedError, match="is the base's own card, unchanged"):
        push(adapter, "you/name")
    assert inbox.commits == []
    (adapter / CARD).write_text("---\nbase_model: you/base\n---\n# Mine\n")
    assert push(adapter, "you/name").warnings == []
    (adapter / CARD).write_text("# Mine\n")
    assert "names no base model" in push(adapter, "you/name").warnings[0]
    merge(CASE.adapter, tmp_path / "merged", CASE.base)
    (tmp_path / "merged" / CARD).write_text(text)
    assert "is it the base's own card?" in push(tmp_path / "merged", "you/name").warnings[0]


def test_a_model_without_a_card_is_not_called_anything(tmp_path: Path, inbox: Inbox) -> None:
    merge(CASE.adapter, tmp_path / "merged", CASE.base)
    (tmp_path / "merged" / CARD).unlink()
    with pytest.raises(UnsupportedError, match=r"is a model without a card \(README\.md\)") as caught:
        push(tmp_path / "merged", "you/name")
    assert caught.value.hint == "Write one that names its base: merge does."
    assert inbox.made == []
