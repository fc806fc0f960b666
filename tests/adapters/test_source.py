"""What stands at a path is told apart by its headers, opened once, and becomes the same kind of open adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

import foreign_projects as projects
import numpy as np
import pytest
import torch
from damage import edit_json
from edited_files import WEIGHTS, edited_copy
from fixture_data import ROOT, fixture
from safetensors.numpy import load_file

from tinylora_tools.adapters.source import find_source, find_sources, load_adapter, name_the_base
from tinylora_tools.bases.base import Base
from tinylora_tools.errors import FormatError, MismatchError, UndeterminedError, UnsupportedError
from tinylora_tools.ops.convert.packed import pack

STORED = fixture("peft021-layers")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "p.safetensors"
    pack(STORED.adapter, path, base=STORED.base)
    return path


@pytest.mark.parametrize("dialect", projects.PROJECTS)
def test_other_projects_adapters_are_told_and_taken_only_where_they_are_asked_for(dialect: str, tmp_path: Path) -> None:
    directory = tmp_path / "source"
    projects.PROJECTS[dialect][0](ROOT / "bases" / "llama-fp32", directory)
    found = find_source(directory, settings={})
    assert (found.form, found.path, found.base_name) == (dialect, directory, None)
    assert find_source(directory, kind=dialect, settings={}).form == dialect
    with pytest.raises(UnsupportedError) as caught:
        find_source(directory)
    assert str(caught.value) == f"{directory}: is another project's adapter ({dialect})"
    assert caught.value.hint == (f"Make it PEFT's first: tinylora_tools.to_peft({directory}, ADAPTER, base=...)")
    with pytest.raises(UnsupportedError, match=f"is of the kind {dialect}, not peft") as caught:
        find_source(directory, kind="peft", settings={})
    assert caught.value.hint == f"Say kind='{dialect}', or nothing."


def test_peft_s_and_packed_ones_are_told(packed: Path) -> None:
    pickled = fixture("peft021-pickled").adapter
    for path in (STORED.adapter, STORED.adapter / WEIGHTS, pickled, pickled / "adapter_model.bin"):
        assert (find_source(path).form, find_source(path, kind="peft").path) == ("peft", path)
        assert find_source(path).base_name == find_source(path).open().config.base_model_name_or_path
    assert find_source(packed).form == "packed"
    assert [one.form for one in find_sources([STORED.adapter, packed])] == ["peft", "packed"]
    assert [one.path for one in find_sources(packed)] == [packed]
    for path, form, other in ((STORED.adapter, "peft", "packed"), (packed, "packed", "anrgusc")):
        with pytest.raises(UnsupportedError, match=f"is of the kind {form}, not {other}"):
            find_source(path, kind=other)


@pytest.mark.parametrize("needless", ["settings", "projection", "against"])
def test_what_only_other_projects_need_is_refused(needless: str, packed: Path) -> None:
    said = {"settings": {}, needless: {"rank": "2"} if needless == "settings" else STORED.base}
    for path, form in ((STORED.adapter, "peft"), (packed, "packed")):
        with pytest.raises(UnsupportedError) as caught:
            find_source(path, **said)  # type: ignore[arg-type]
        assert str(caught.value) == f"{path}: is {form}: {needless} is for other projects' adapters"
        assert caught.value.hint == "Leave it out."


def test_what_is_open_passes_through(tmp_path: Path) -> None:
    """Its files may be gone; a base or an order that is given later counts."""
    directory = edited_copy(STORED.name, tmp_path / "a", base_model_name_or_path=None, auto_mapping=None)
    first = find_source(directory).open(in_memory=True)
    shutil.rmtree(directory)
    source = find_source(first)
    assert (source.form, source.path, source.base_name) == ("peft", directory, None)
    assert find_source(source) is source
    again = load_adapter(first, STORED.base)
    name = STORED.modules[0]["name"]
    assert again.numbering.source == "architecture"
    assert first.numbering.source == "stored P"
    np.testing.assert_allclose(again.delta(name), STORED.delta(name), rtol=1e-9, atol=1e-12)
    order = [row["name"] for row in STORED.modules]
    assert load_adapter(first, module_order=order, stream="torch-cpu-scalar").places[order[0]] == 0
    with pytest.raises(FormatError, match="no such file or directory"):
        find_source(directory)


def test_in_memory_reads_everything_at_once(tmp_path: Path) -> None:
    case = fixture("peft019-two")  # with another adapter's factors in its file
    directory = edited_copy(case.name, tmp_path / "a")
    whole = load_file(directory / WEIGHTS)
    adapter = find_source(directory).open(in_memory=True)
    (directory / WEIGHTS).write_bytes(b"\0" * (directory / WEIGHTS).stat().st_size)  # in place: an open file sees it
    kept = {name: adapter.header.file.read(name) for name in adapter.header.file.tensors}
    assert kept.keys() == whole.keys() - adapter.header.leaked_keys < whole.keys()
    assert all(kept[name].tobytes() == whole[name].tobytes() for name in kept)


def test_companions_are_those_of_a_directory_of_peft_s(tmp_path: Path, packed: Path) -> None:
    """A file that is named alone, a packed one or another project's brings no other files along."""
    named = fixture("peft021-named")
    assert load_adapter(STORED.adapter).companions == STORED.adapter
    assert load_adapter(named.adapter.parent).companions == named.adapter  # PEFT's sub-directory for a named adapter
    assert load_adapter(STORED.adapter / WEIGHTS).companions is None
    assert load_adapter(packed, STORED.base).companions is None
    projects.make_curiouscaliboi(ROOT / "bases" / "llama-fp32", tmp_path / "theirs")
    theirs = load_adapter(tmp_path / "theirs")
    assert theirs.companions is None
    assert any("no file says what the base is" in note for note in theirs.imported)


def test_a_base_that_is_not_at_hand_is_asked_for(tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # from where the name of the base leads nowhere
    with pytest.raises(MismatchError) as caught:
        load_adapter(packed)
    assert str(caught.value) == f"{packed}: is packed, and its base 'fixtures/bases/qwen2-bf16' isn't at hand"
    assert caught.value.hint == "Say with base=... where its directory is."
    assert name_the_base("Qwen/Qwen2.5-0.5B") == (
        "Say with base=... where its directory is, or download it with base='hf://Qwen/Qwen2.5-0.5B'."
    )
    projects.make_spuuntries(ROOT / "bases" / "llama-fp32", tmp_path / "theirs")
    with pytest.raises(UndeterminedError, match="which modules it adapts, or in what order, isn't in the file"):
        load_adapter(tmp_path / "theirs")


def test_inputs_are_all_that_an_output_must_keep_apart_from(tmp_path: Path, packed: Path) -> None:
    """The adapter, the base that is given, the one that it names (if that holds weights), and a file with P."""
    adapter, base = edited_copy(STORED.name, tmp_path / "in" / "a", base_model_name_or_path="../base"), tmp_path / "b"
    assert find_source(adapter).inputs() == [adapter]
    (tmp_path / "in" / "base").mkdir()
    assert find_source(adapter).inputs(Base(base)) == [adapter, base]  # an empty directory is nobody's base
    shutil.copy(STORED.base / "model.safetensors", tmp_path / "in" / "base")
    named = adapter / "../base"
    assert find_source(adapter).inputs(Base(base)) == [adapter, base, named]
    assert find_source(find_source(adapter).open()).inputs() == [adapter, named]
    projects.make_chi_shan0707(ROOT / "bases" / "llama-fp32", tmp_path / "theirs")
    kept = tmp_path / "theirs" / "kept.pt"
    theirs = find_source(tmp_path / "theirs", settings={}, projection=kept, against=base.parent)
    assert theirs.inputs() == [tmp_path / "theirs", kept, tmp_path]


def test_an_adapter_of_another_kind_is_named(tmp_path: Path) -> None:
    adapter = edited_copy(STORED.name, tmp_path / "a")
    edit_json(adapter / "adapter_config.json", peft_type="LORA")
    with pytest.raises(UnsupportedError, match="peft_type is 'LORA', expected 'TINYLORA'"):
        find_source(adapter)
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(FormatError):
        find_source(tmp_path / "list.bin")
