"""Every tensor of a base against what is recorded of it: what differs is named, and so is what nothing records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from damage import edit
from fixture_data import fixture
from hub_server import hub_of

from tinylora_tools import merge, pack
from tinylora_tools.errors import FormatError
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.ops.verify.base import BaseReport, verify_base
from tinylora_tools.output.manifest import NAME

CASE = fixture("peft021-13-numbers")
TARGETED = {f"{row['name']}.weight" for row in CASE.modules}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model with a manifest."""
    path = tmp_path_factory.mktemp("merged") / "merged"
    merge(CASE.adapter, path, CASE.base, manifest=True)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A copy of the base, to be changed."""
    return Path(shutil.copytree(CASE.base, tmp_path / "base"))


def doubled(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2


def replaced(tensors: dict[str, Any]) -> None:
    embed = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = np.random.default_rng(0).standard_normal(embed.shape).astype(embed.dtype)


def of_one(tensors: dict[str, Any]) -> None:
    """One number of a targeted weight: less than factors can tell."""
    weight = tensors["model.layers.3.mlp.up_proj.weight"].copy()
    weight[0, 0] = weight[0, 0] * 1.5
    tensors["model.layers.3.mlp.up_proj.weight"] = weight


CHANGES = {
    "model.norm.weight": doubled, "model.embed_tokens.weight": replaced, "model.layers.3.mlp.up_proj.weight": of_one
}  # fmt: skip


def names(report: BaseReport) -> list[str]:
    return [one.name for one in report.differences]


def test_what_factors_do_not_tell_is_not_called_the_same(base: Path) -> None:
    edit(base / "model.safetensors", doubled)
    report = verify_base(CASE.adapter, base)
    assert (report.verdict, report.ok) == ("same-weights", True)
    assert set(report.not_compared) == read_checkpoint(base).shard_of.keys() - TARGETED
    assert {"model.norm.weight", "model.embed_tokens.weight"} <= set(report.not_compared)
    assert (report.tensors, report.records) == (147, [])


def test_a_base_as_it_was_recorded(merged: Path) -> None:
    report = verify_base(CASE.adapter, CASE.base, against=merged)
    assert (report.ok, report.differences, report.not_compared) == (True, [], [])
    assert report.warnings == verify_base(CASE.adapter, CASE.base).warnings
    assert [(record.kind, record.path, record.tensors) for record in report.records] == [
        ("manifest", str(merged / NAME), 147)
    ]


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_tensor_is_named(name: str, base: Path, merged: Path) -> None:
    edit(base / "model.safetensors", CHANGES[name])
    report = verify_base(CASE.adapter, base, against=merged / NAME)
    assert (names(report), report.ok) == ([name], False)
    assert report.differences[0].what == "this tensor was changed"


def test_a_manifest_under_another_name_in_the_base_s_directory(base: Path, merged: Path) -> None:
    shutil.copy(merged / NAME, base / "of-the-merge.json")
    report = verify_base(CASE.adapter, base, against=base / "of-the-merge.json")
    assert (report.ok, len(report.records)) == (True, 1)


def test_tensors_that_are_missing_or_new(base: Path, merged: Path) -> None:
    def swap(tensors: dict[str, Any]) -> None:
        tensors["model.norm.bias"] = tensors.pop("model.norm.weight")

    edit(base / "model.safetensors", swap)
    report = verify_base(CASE.adapter, base, against=merged)
    assert [(one.name, one.what) for one in report.differences] == [
        ("model.norm.bias", "this tensor wasn't there"),
        ("model.norm.weight", "this tensor is missing"),
    ]
    assert (report.ok, report.not_compared) == (False, [])


def test_nothing_recorded_is_not_compared_and_no_yes(base: Path) -> None:
    report = verify_base(CASE.adapter, base, all_tensors=True)
    assert (report.verdict, report.ok, report.records, report.differences) == ("same-weights", False, [], [])
    assert report.not_compared == list(read_checkpoint(base).shard_of)
    assert "nothing at hand records the base's tensors" in report.warnings[-1]


def test_a_base_that_was_merged_itself_tells_of_itself(merged: Path, tmp_path: Path) -> None:
    own = shutil.copytree(merged, tmp_path / "own")
    for against in (None, own, own / NAME):
        report = verify_base(CASE.adapter, own, all_tensors=True, against=against)
        assert (report.differences, report.not_compared, len(report.records)) == ([], [], 1)
        assert report.warnings[-1] == (
            "this base is what the adapter was merged into already, by the manifest in it, not its base"
        )
    other = fixture("peft021-layers").adapter
    assert "merged into already" not in " ".join(verify_base(other, own, all_tensors=True).warnings)
    edit(own / "model.safetensors", doubled)
    assert names(verify_base(CASE.adapter, own, all_tensors=True)) == ["model.norm.weight"]


def test_what_came_of_a_merge_is_not_what_went_into_it(merged: Path, tmp_path: Path) -> None:
    other = shutil.copytree(merged, tmp_path / "other")
    (other / NAME).unlink()
    report = verify_base(CASE.adapter, other, against=merged)
    assert set(names(report)) == TARGETED
    assert report.warnings[-1] == (
        f"the base is what came of the merge that {merged / NAME} tells of, not what went into it"
    )


def test_a_packed_adapter_records_its_targets(base: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p.safetensors"
    pack(CASE.adapter, packed, base=base)
    report = verify_base(packed, base, all_tensors=True)
    assert [(record.kind, record.tensors) for record in report.records] == [("packed", len(TARGETED))]
    assert set(report.not_compared) == read_checkpoint(base).shard_of.keys() - TARGETED
    assert not report.ok


@pytest.mark.parametrize("where", ["cache_dir", "local_dir"])
def test_a_base_from_the_hub(where: str, tmp_path: Path) -> None:
    with hub_of(CASE.base) as address:
        given = {where: tmp_path / "here"}
        at = Path(huggingface_hub.snapshot_download("owner/name", endpoint=address, token=False, **given))
    report = verify_base(CASE.adapter, at, all_tensors=True)
    assert (report.ok, report.differences, report.not_compared) == (True, [], [])
    assert [(record.kind, record.tensors) for record in report.records] == [("hub", 147)]
    edit((at / "model.safetensors").resolve(), doubled)
    report = verify_base(CASE.adapter, at, all_tensors=True)
    assert (report.verdict, report.ok, names(report)) == ("same-weights", False, ["model.safetensors"])
    assert "which of its tensors differ isn't known" in report.differences[0].what


def test_a_manifest_that_is_not_there_is_said_before_the_work(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinylora_tools.ops.verify.base._verdicts", None)
    with pytest.raises(FormatError, match=f"holds no {NAME}"):
        verify_base(CASE.adapter, base, against=CASE.base)
    (base / NAME).write_text("{}")
    with pytest.raises(FormatError, match="isn't a manifest of version 1"):
        verify_base(CASE.adapter, base, all_tensors=True)
