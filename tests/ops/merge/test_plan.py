"""What a merge decides before it writes: ties, dtypes, and what a scale doesn't reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import edit_json
from edited_files import edited_copy
from fixture_data import fixture, tensors

from tinylora_tools import load_adapter
from tinylora_tools.bases.base import open_base
from tinylora_tools.errors import MismatchError
from tinylora_tools.formats.checkpoint import read_checkpoint
from tinylora_tools.ops.merge.plan import plan_merge
from tinylora_tools.ops.merge.run import merge
from tinylora_tools.ops.merge.words import MergePlan


def test_unties_embeddings_and_says_so(tmp_path: Path) -> None:
    case = fixture("peft021-embedding")
    report = merge([case.adapter], tmp_path / "untied", case.base)
    assert report.tied == "untied"
    assert json.loads((tmp_path / "untied" / "config.json").read_text())["tie_word_embeddings"] is False
    out = tensors(tmp_path / "untied")
    assert out["lm_head.weight"].tobytes() == tensors(case.base)["model.embed_tokens.weight"].tobytes()
    shared = merge([case.adapter], tmp_path / "shared", case.base, tied="share")
    assert shared.tied == "shared"
    assert (tmp_path / "shared" / "config.json").read_bytes() == (case.base / "config.json").read_bytes()
    assert read_checkpoint(tmp_path / "shared").shard_of.keys() == read_checkpoint(case.base).shard_of.keys()


def planned(adapter: Path, base: Path, **options: Any) -> MergePlan:
    at = open_base(base)
    return plan_merge(at, [load_adapter(adapter, at)], [options.pop("scale", 1.0)], **options)


def test_the_configuration_says_the_dtype_where_it_said_one(copied: Callable[[str], tuple[Path, Path]]) -> None:
    adapter, base = copied("peft021-layers")
    assert planned(adapter, base).config == {}
    assert planned(adapter, base, dtype="float16").config == {"dtype": "float16"}
    edit_json(base / "config.json", torch_dtype="bfloat16")
    assert planned(adapter, base, dtype="float16").config == {"dtype": "float16", "torch_dtype": "float16"}
    pickled = fixture("peft021-pickled")
    assert planned(pickled.adapter, pickled.base, dtype="bfloat16").config == {"torch_dtype": "bfloat16"}


def test_a_scale_does_not_reach_what_is_brought_whole() -> None:
    case = fixture("peft021-bias-all")
    assert (
        "scale=0.5 applies to the low-rank updates; 8 tensors that adapter brings whole (biases, modules_to_save, "
        "embeddings) are taken as they are"
    ) in planned(case.adapter, case.base, scale=0.5).warnings
    assert not any("scale" in text for text in planned(case.adapter, case.base).warnings)


def test_values_of_its_own_can_t_be_shared(tmp_path: Path) -> None:
    """Both embeddings of a tied pair, of which the adapter brings one whole with other values."""
    case = fixture("peft021-both-tied")

    def change(tensors: dict[str, Any]) -> None:
        for key in tensors:
            if key.endswith("wte.base_layer.weight"):
                tensors[key] = tensors[key] + 1

    adapter = edited_copy(case.name, tmp_path / "a", change)
    with pytest.raises(MismatchError, match=r"the adapter holds different values for .*, which are one tensor"):
        planned(adapter, case.base)


def test_a_targeted_embedding_alone_is_untied_and_both_alike_are_kept(tmp_path: Path) -> None:
    untied = planned(fixture("peft021-lm-head").adapter, fixture("peft021-lm-head").base)
    names = [info.name for file in untied.files for info, _ in file.tensors]
    assert (untied.tied, untied.config) == ("untied", {"tie_word_embeddings": False})
    assert len(names) == len(set(names))
    by_name = {info.name: outcome for file in untied.files for info, outcome in file.tensors}
    assert [len(by_name[name].updates) for name in ("model.embed_tokens.weight", "lm_head.weight")] == [0, 1]
    shared = planned(fixture("peft021-lm-head").adapter, fixture("peft021-lm-head").base, tied="share")
    assert (shared.tied, shared.config) == ("shared", {})
    assert planned(fixture("peft021-layers").adapter, fixture("peft021-layers").base).tied == "kept"
