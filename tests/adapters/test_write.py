"""An adapter's files as they are written: what other readers find in them, and what may be left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import peft
import pytest
from damage import edit
from edited_files import WEIGHTS, Tensors, edited_copy, without_projections
from fixture_data import MERGEABLE, Fixture, fixture
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tinylora_tools.adapters.load import Adapter
from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.adapters.write import (
    missing_projections,
    require_drawable,
    stored_tensors,
    stream_adapter,
    write_adapter,
)
from tinylora_tools.errors import UndeterminedError, UnsupportedError
from tinylora_tools.formats.digests import KEY
from tinylora_tools.formats.peft.adapter import read_adapter

LAYERS = fixture("peft021-layers")


def opened(case: Fixture) -> Adapter:
    return load_adapter(case.adapter, case.base)


def test_what_is_written_is_read_back_by_safetensors_and_peft(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array([1.5, -2], ml_dtypes.bfloat16),
        "c": np.zeros((0, 2), np.float16),
        "d": np.float64([[np.pi]]),
    }
    config = json.loads((LAYERS.adapter / "adapter_config.json").read_text())
    written = write_adapter(tmp_path, tensors, config, {"converted_from": "nobody"})
    assert written == (tmp_path / WEIGHTS).stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", WEIGHTS]
    with safe_open(tmp_path / WEIGHTS, "np") as file:
        metadata = file.metadata()
        assert metadata.keys() == {"format", "converted_from", KEY}
        assert (metadata["format"], metadata["converted_from"]) == ("pt", "nobody")
        assert json.loads(metadata[KEY])["tensors"].keys() == tensors.keys()
        assert sorted(file.keys()) == sorted(tensors)
    back = load_file(tmp_path / WEIGHTS)
    assert all(back[name].tobytes() == tensors[name].tobytes() for name in tensors)
    assert {name: array.dtype for name, array in back.items()} == {name: a.dtype for name, a in tensors.items()}
    assert peft.PeftConfig.from_pretrained(str(tmp_path)) == peft.PeftConfig.from_pretrained(str(LAYERS.adapter))


def test_the_bytes_are_those_of_safetensors_itself(tmp_path: Path) -> None:
    """Whatever the order in which values come; and no configuration is written where there is none."""
    tensors = dict(reversed(load_file(LAYERS.adapter / WEIGHTS).items()))
    tensors["base_model.tinylora_v.0"] = tensors["base_model.tinylora_v.0"].astype(np.float16)
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    entries = [(name, {"float32": "F32", "float16": "F16"}[a.dtype.name], a.shape) for name, a in tensors.items()]
    stream_adapter(tmp_path, entries, ((name, tensors[name]) for name in sorted(tensors)), None, {})
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert not (tmp_path / "adapter_config.json").exists()


def test_another_adapter_s_tensors_are_left_out() -> None:
    adapter = read_adapter(fixture("peft019-two").adapter)
    whole = load_file(fixture("peft019-two").adapter / WEIGHTS)
    kept = stored_tensors(adapter)
    assert {name for name in whole if name.endswith(".default")} == whole.keys() - kept.keys() != set()
    assert all(kept[name].tobytes() == whole[name].tobytes() for name in kept)


@pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)
def test_the_p_that_are_missing_are_the_live_modules_(case: Fixture) -> None:
    adapter = opened(case)
    found = missing_projections(adapter)
    if adapter.header.has_projections:
        assert found == {}
        return
    wanted = {f"base_model.model.{name}.tinylora_P": case.live[f"{name}.P"] for name in case.modules_by_name}
    assert found.keys() == wanted.keys()
    for key, P in found.items():
        assert P.dtype == adapter.factors(key.split(".", 2)[2].removesuffix(".tinylora_P")).A.dtype
        assert P.astype(np.float32).tobytes() == wanted[key].astype(np.float32).tobytes()


def test_only_the_p_that_is_missing_is_drawn(tmp_path: Path) -> None:
    """In the dtype of the factors beside it."""
    case = fixture("peft021-no-autocast")  # all in bfloat16
    name = case.modules[1]["name"]
    adapter = edited_copy(case.name, tmp_path / "a", lambda t: t.pop(f"base_model.model.{name}.tinylora_P"))
    ((key, P),) = missing_projections(load_adapter(adapter, case.base)).items()
    assert key == f"base_model.model.{name}.tinylora_P"
    assert (P.dtype.name, P.tobytes()) == ("bfloat16", case.live[f"{name}.P"].tobytes())


def test_the_stream_that_draws_every_stored_p_is_told() -> None:
    assert require_drawable(opened(LAYERS)) == "torch-cpu-avx2"
    assert require_drawable(opened(fixture("peft020-scalar"))) == "torch-cpu-scalar"
    assert require_drawable(opened(fixture("peft020-seed-only"))) == "torch-cpu-avx2"  # nothing to lose


def test_p_that_no_seed_draws_has_to_stay(tmp_path: Path) -> None:
    name = LAYERS.modules[4]["name"]
    key = f"base_model.model.{name}.tinylora_P"

    def tamper(tensors: Tensors) -> None:
        tensors[key].view(np.uint32)[0, 0, 0] += 1  # the last bit of one number

    adapter = edited_copy(LAYERS.name, tmp_path / "a", tamper)
    with pytest.raises(UnsupportedError, match=f"{name}: its P isn't what its seed draws") as caught:
        require_drawable(load_adapter(adapter, LAYERS.base))
    assert caught.value.hint == "Keep P in the file."
    edit(adapter / WEIGHTS, without_projections)
    require_drawable(load_adapter(adapter, LAYERS.base))


def test_p_of_a_lost_seed_or_order_has_to_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="the seed of P isn't known, so P can't be left out"):
        require_drawable(opened(fixture("peft019-shared")))
    alone = edited_copy(LAYERS.name, tmp_path / "alone")
    (alone / "adapter_config.json").unlink()
    with pytest.raises(UnsupportedError, match="the seed of P isn't known"):
        require_drawable(load_adapter(alone, LAYERS.base))
    monkeypatch.chdir(tmp_path)
    second = fixture("peft020-second")  # its P follow another adapter's places
    with pytest.raises(UndeterminedError, match="the seeds of the stored P don't tell it"):
        require_drawable(load_adapter(second.adapter))
