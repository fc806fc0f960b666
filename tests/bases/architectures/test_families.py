"""The data file, and files of the same form."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from tinylora_tools.bases.architectures import families
from tinylora_tools.bases.architectures.named import from_class_name, from_config
from tinylora_tools.errors import FormatError, MismatchError

#: Bytes of the data file as a wheel holds it.
MOST_BYTES = 300_000

ONE: dict[str, Any] = {
    "family": "mine",
    "releases": {
        "5.0": {"bare": "MineModel", "classes": {"MineForCausalLM": {"modules": "model.layers.*.up lm_head"}}}
    },
}


def written(tmp_path: Path, data: Any) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_the_data_are_small_in_a_wheel() -> None:
    assert len(zlib.compress(families.DATA.read_bytes(), 6)) < MOST_BYTES


def test_every_line_is_a_family() -> None:
    found = [data["family"] for data in families.all_families()]
    assert found == families.known_model_types()
    assert len(found) == len(set(found))


def test_classes_that_releases_share_are_filled_in() -> None:
    data = families.family("llama")
    assert data is not None
    assert len(families.releases()) == 2
    assert all(isinstance(one, dict) for r in data["releases"].values() for one in r["classes"].values())
    assert families.family("nobody") is None


def test_a_class_tells_its_family() -> None:
    assert families.family_of_class("Qwen2ForCausalLM") == "qwen2"
    assert families.family_of_class("NobodyForCausalLM") is None


def test_a_given_file_counts_for_its_model_alone(tmp_path: Path) -> None:
    path = written(tmp_path, ONE)
    config = {"model_type": "mine", "architectures": ["MineForCausalLM"]}
    assert from_config(config) is None
    with families.described_by(path):
        found = from_config(config)
        assert found is not None
        assert found.kind("model.layers.3.up") == "Linear"
        assert found.sort_modules(["lm_head", "model.layers.1.up"]) == ["model.layers.1.up", "lm_head"]
        unnamed = from_config({})
        assert unnamed is not None
        assert unnamed.class_name == "MineForCausalLM"
        assert from_class_name("MineForCausalLM") is not None
        with pytest.raises(MismatchError, match=r"describes a model of type 'mine', config\.json says 'llama'"):
            from_config({"model_type": "llama"})
    assert from_config(config) is None
    with families.described_by(None):
        assert from_config(config) is None


@pytest.mark.parametrize(
    "damage",
    [
        "no JSON",
        "[]",
        "{}",
        {"family": 3, "releases": ONE["releases"]},
        {"family": "mine", "releases": {}},
        {"family": "mine", "releases": {"5.0": {"bare": None, "classes": {}}}},
        {"family": "mine", "releases": {"5.0": {"bare": "A", "classes": {"A": {"modules": 3}}}}},
        {"family": "mine", "releases": {"5.0": {"bare": "A", "classes": {"A": {"ties": [{"members": []}]}}}}},
        {"family": "mine", "releases": {"5.0": {"bare": "A", "classes": {"A": {"surprise": 1}}}}},
    ],
    ids=str,
)
def test_what_is_no_architecture_file_is_an_error(tmp_path: Path, damage: Any) -> None:
    path = written(tmp_path, damage)
    with pytest.raises(FormatError, match="this is no architecture file") as caught, families.described_by(path):
        pass
    assert caught.value.where == str(path)
    assert "architecture(BASE, FILE)" in str(caught.value.hint)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="No such file"), families.described_by(tmp_path / "none.json"):
        pass
