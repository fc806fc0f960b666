"""What inspect says of an adapter, against what PEFT's live modules were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import recipe
from fixture_data import FIXTURES, Fixture, fixture
from safetensors.numpy import load_file, save_file

from tinylora_tools import load_adapter
from tinylora_tools.ops.inspect.adapter import AdapterReport
from tinylora_tools.ops.inspect.run import inspect
from tinylora_tools.ops.merge.run import merge

every_fixture = pytest.mark.parametrize("case", FIXTURES, ids=lambda case: case.name)


REGIMES = {
    "peft019-shared": "shared-projection",
    "peft019-scalar": "shared-projection",
    "peft019-seed-only": "shared-projection",
    "peft019-experts": "shared-projection",
    "peft019-two": "seed-plus-other-index",
    "peft020-second": "seed-plus-other-index",
}


def described(path: Path, base: Path | None = None) -> AdapterReport:
    report = inspect(path, base=base)
    assert isinstance(report, AdapterReport)
    return report


@every_fixture
def test_places_groups_and_counts_are_pefts(case: Fixture) -> None:
    report = described(case.adapter, case.base)
    assert [row.name for row in report.modules] == [row["name"] for row in case.modules]
    assert [row.index for row in report.modules] == list(range(len(case.modules)))
    assert [row.group for row in report.modules] == [row["group"] for row in case.modules]
    for row in report.modules:
        A, B = case.live[f"{row.name}.A"], case.live[f"{row.name}.B"]
        assert (row.rank, row.in_features, row.out_features) == (*A.shape, B.shape[0])
    vectors = {row["group"]: case.live[f"{row['name']}.v"] for row in case.modules}
    assert report.groups == len(vectors)
    assert report.trainable_parameters == sum(v.size for v in vectors.values())
    assert report.trainable_bytes == sum(v.nbytes for v in vectors.values())
    assert report.trainable_bytes_bf16 == 2 * report.trainable_parameters
    assert sum(part.parameters for part in report.contents) == report.stored_parameters
    assert sum(part.bytes for part in report.contents) == report.tensor_bytes
    assert report.file_bytes == Path(report.path).stat().st_size
    assert report.regime == REGIMES.get(case.name, "seed-plus-index")
    assert report.peft_version == case.facts["peft"]


@every_fixture
def test_stored_p_tell_the_order_without_an_architecture(
    case: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they can: not with one P for all, another adapter's numbering, or a single number."""
    monkeypatch.chdir(tmp_path)  # where the base that the configuration names isn't at hand
    report = described(case.adapter)
    stored = any(part.part == "P" and part.tensors for part in report.contents)
    if (report.config or {}).get("auto_mapping"):
        assert report.order_from == "architecture"
    elif stored and case.name not in REGIMES:
        assert report.order_from == "stored P"
    else:
        assert report.order_from == ("one group" if report.groups == 1 else "unknown")
        assert {row.index for row in report.modules} == {None}
        assert any("module_order=..." in warning for warning in report.warnings)
        return
    assert [row.name for row in report.modules] == [row["name"] for row in case.modules]


def test_thirteen_parameters_are_26_bytes() -> None:
    report = described(fixture("peft021-13-numbers").adapter)
    assert (report.trainable_parameters, report.trainable_bytes_bf16, report.groups) == (13, 26, 1)
    assert any("P isn't stored" in warning for warning in report.warnings)


def test_a_file_alone(tmp_path: Path) -> None:
    case = fixture("peft019-shared")
    shutil.copy(case.adapter / "adapter_model.safetensors", tmp_path / "adapter.safetensors")
    report = described(tmp_path / "adapter.safetensors")
    assert {row.index for row in report.modules} == {row.group for row in report.modules} == {None}
    assert any("no adapter_config.json" in warning for warning in report.warnings)
    with_base = described(tmp_path / "adapter.safetensors", case.base)
    assert [row.group for row in with_base.modules] == [row["group"] for row in case.modules]


def test_warnings_that_matter(tmp_path: Path) -> None:
    def warnings(name: str) -> str:
        return "\n".join(described(fixture(name).adapter, fixture(name).base).warnings)

    assert "share one P" in warnings("peft019-shared")
    assert "nobody can reproduce" in warnings("peft019-seed-only")
    assert "factors of default" in warnings("peft019-two")
    assert "no bias was saved" in warnings("peft020-bert-bias")
    assert "no bias was saved" not in warnings("peft021-bias-own")
    assert "differ between machines" in warnings("peft020-seed-only")
    assert warnings("peft021-vit") == ""

    shutil.copytree(fixture("peft020-tiny").adapter, tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    key = "base_model.model.model.layers.0.self_attn.q_proj.tinylora_"
    tensors |= {"extra": np.zeros(1, np.float32), key + "P": np.zeros((2, 1, 1), np.float32)}
    for name in tensors:
        if "tinylora_v" in name:
            tensors[name][...] = 0
    save_file(tensors, file)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**config, "r": 2}))
    found = "\n".join(described(tmp_path / "a", fixture("peft020-tiny").base).warnings)
    for text in ("extra: no PEFT release", "P is (2, 1, 1)", "has rank 1, but adapter_config.json says r=2", "is zero"):
        assert text in found


GRID = [(1, 1, 0.0), (1, 13, 0.3), (2, 1, 0.5), (2, 13, 1.0), (2, 64, 0.3), (4, 3, 0.3), (4, 64, 0.5), (2, 3, 0.99)]


@pytest.mark.parametrize(("r", "u", "weight_tying"), GRID)
@pytest.mark.parametrize("save_projection", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_what_the_installed_peft_writes(
    r: int, u: int, weight_tying: float, save_projection: bool, tmp_path: Path
) -> None:
    """Made on the fly: eleven layers, so that names don't sort in order, with groups of every size."""
    settings = {**recipe._DECODER, "num_hidden_layers": 11, "hidden_size": 16, "intermediate_size": 24}
    model_class, dtype = ("LlamaForCausalLM", "bf16") if save_projection else ("Qwen2ForCausalLM", "fp32")
    base = recipe.Base(model_class, settings, dtype)
    recipe.make_base(base, tmp_path / "base")
    config = {"r": r, "u": u, "weight_tying": weight_tying, "save_projection": save_projection}
    case = recipe.Case(
        "", "base", {**config, "target_modules": ["k_proj", "up_proj", "down_proj"]}, "", task="CAUSAL_LM"
    )
    recipe.make_adapter(case, base, tmp_path / "base", tmp_path / "made", str(tmp_path / "base"))
    made = Fixture(tmp_path / "made")
    report = described(made.adapter)  # by the base that the configuration names
    assert [(row.name, row.group) for row in report.modules] == [(row["name"], row["group"]) for row in made.modules]

    merge([made.adapter], tmp_path / "out", dtype="float32")
    base_tensors, out = (
        load_file(tmp_path / "base" / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    for row in made.modules:
        name = f"{row['name']}.weight"
        exact = base_tensors[name].astype(np.float64) + made.delta(row["name"])
        assert np.max(np.abs(out[name] - exact)) <= 2.0**-23 * np.max(np.abs(exact))


def test_the_numbers_of_v_by_group() -> None:
    for name in ("peft021-13-numbers", "peft021-layers"):
        report = inspect(fixture(name).adapter)
        assert isinstance(report, AdapterReport)
        opened = load_adapter(fixture(name).adapter)
        assert [row.group for row in report.values] == sorted(opened.header.vectors)
        for row in report.values:
            v = opened.vector(row.group).astype(np.float64)
            assert row.numbers == v.tolist()
            assert row.rms == pytest.approx(np.sqrt(np.mean(v**2)))
            assert row.modules == sum(one.group == row.group for one in report.modules)
