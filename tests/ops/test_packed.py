"""Packed and back: what is promised bit for bit is compared so, and what isn't restored is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixture_data import FIXTURES, ROOT, Fixture, fixture
from safetensors.torch import load_file, save_file

from tinylora_tools.adapters.source import find_source
from tinylora_tools.bases.base import open_base
from tinylora_tools.errors import FormatError, MismatchError, OutputError, UnsupportedError
from tinylora_tools.formats.packed import CONTENT, INDEX, VALUE, content_mark, packed_at
from tinylora_tools.formats.peft_adapter import read_adapter
from tinylora_tools.formats.safetensors_file import build_header, read_header
from tinylora_tools.ops.convert import packed_factors as pack_factors
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.convert.packed_factors import MOST_ERROR

Run = Callable[..., Any]

#: Those with a P that can be had.
PACKABLE = [f for f in FIXTURES if f.name != "peft019-seed-only"]


def values(adapter: Path) -> dict[str, np.ndarray[Any, Any]]:
    read = read_adapter(adapter)
    leaked = {key for modules in read.leaked.values() for keys in modules.values() for key in keys}
    return {name: read.file.read(name) for name in read.file.tensors if name not in leaked}


def restored(path: Path, base: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    header = find_source(path).open(open_base(base)).header
    return {name: header.file.read(name) for name in header.file.tensors}, dict(header.config.raw)


@pytest.mark.parametrize("case", PACKABLE, ids=lambda case: case.name)
def test_exactly_the_adapter_comes_back(case: Fixture, tmp_path: Path) -> None:
    report = pack(case.adapter, tmp_path / "p.safetensors", base=case.base, exact=True)
    assert report.error == 0.0
    tensors, config = restored(tmp_path / "p.safetensors", case.base)
    before = values(case.adapter)
    assert tensors.keys() == before.keys()
    for key, array in before.items():
        assert tensors[key].dtype == array.dtype, key
        assert tensors[key].tobytes() == array.tobytes(), key
    original = json.loads((case.adapter / "adapter_config.json").read_text())
    for key, value in original.items():
        assert config[key] == (sorted(value) if key == "target_modules" and isinstance(value, list) else value)


@pytest.mark.parametrize("case", PACKABLE, ids=lambda case: case.name)
def test_updates_come_back_within_the_error_that_is_told(case: Fixture, tmp_path: Path) -> None:
    report = pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    assert report.error <= MOST_ERROR
    tensors, _ = restored(tmp_path / "p.safetensors", case.base)
    for module in case.modules:
        exact = case.delta(module["name"])
        A, B = (tensors[f"base_model.model.{module['name']}.tinylora_{part}"].astype(np.float64) for part in "AB")
        P, v = (case.live[f"{module['name']}.{part}"].astype(np.float64) for part in "Pv")
        found = B @ np.einsum("i,ijk->jk", v, P) @ A
        assert np.linalg.norm(found - exact) <= (report.error * 1.1 + 1e-7) * np.linalg.norm(exact)
    told = read_header(tmp_path / "p.safetensors").metadata["error"]
    assert float(told) == pytest.approx(report.error, rel=0.1)


def test_thirteen_numbers_are_26_bytes(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    adapter = tmp_path / "adapter"
    shutil.copytree(case.adapter, adapter)
    path = adapter / "adapter_model.safetensors"
    state = load_file(path)
    state["base_model.tinylora_v.0"] = state["base_model.tinylora_v.0"].to(torch.bfloat16).float()
    save_file(state, path, metadata={"format": "pt"})
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "Qwen/Qwen2.5-7B-Instruct", "revision": "0123456789" * 4}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    report = pack(adapter, tmp_path / "p.safetensors", base=case.base)
    file = read_header(tmp_path / "p.safetensors")
    assert report.payload_bytes == file.tensors["v.0"].nbytes == 26
    assert report.bytes_written - report.correction_bytes <= 1024


def test_a_large_error_gets_corrections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = fixture("peft021-13-numbers")
    few = pack(case.adapter, tmp_path / "few.safetensors", base=case.base)
    monkeypatch.setattr(pack_factors, "MOST_ERROR", few.error / 2)
    more = pack(case.adapter, tmp_path / "more.safetensors", base=case.base)
    assert more.corrections > few.corrections
    assert more.error < few.error
    restored(tmp_path / "more.safetensors", case.base)


def test_exact_float32_factors_are_told_of_and_stored_whole(tmp_path: Path) -> None:
    case, told = fixture("peft020-tiny"), list[str]()
    report = pack(case.adapter, tmp_path / "p.safetensors", base=case.base, exact=True, tell=told.append)
    file = read_header(tmp_path / "p.safetensors")
    assert INDEX not in file.tensors
    assert file.tensors[VALUE].parameters == report.factor_entries
    assert told == [
        "exact stores nearly every entry of float32 factors, since no two libraries agree on them: about "
        f"{4 * report.factor_entries:,} bytes"
    ]
    bf16 = fixture("peft021-13-numbers")
    pack(bf16.adapter, tmp_path / "q.safetensors", base=bf16.base, exact=True, tell=told.append)
    assert len(told) == 1


def edited_adapter(case: Fixture, directory: Path, change: Callable[[dict[str, Any]], None], **config: Any) -> Path:
    """A copy of a fixture's adapter with other tensors and another configuration."""
    shutil.copytree(case.adapter, directory)
    state = load_file(directory / "adapter_model.safetensors")
    change(state)
    save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    said = json.loads((directory / "adapter_config.json").read_text()) | config
    (directory / "adapter_config.json").write_text(json.dumps(said))
    return directory


@pytest.mark.parametrize("own", [True, False], ids=["its own P", "the seed's P"])
@pytest.mark.parametrize("save_projection", [True, False], ids=["said", "denied"])
def test_p_comes_back_whatever_the_configuration_says(own: bool, save_projection: bool, tmp_path: Path) -> None:
    case = fixture("peft021-layers")

    def change(state: dict[str, Any]) -> None:
        for key in state:
            if own and key.endswith("_P"):
                state[key] = state[key] * 2

    adapter = edited_adapter(case, tmp_path / "a", change, save_projection=save_projection)
    assert pack(adapter, tmp_path / "p.safetensors", base=case.base, exact=True).identical
    tensors, _ = restored(tmp_path / "p.safetensors", case.base)
    before = values(adapter)
    assert {k: v.tobytes() for k, v in tensors.items()} == {k: v.tobytes() for k, v in before.items()}


def test_p_that_isn_t_there_isn_t_added(tmp_path: Path) -> None:
    case = fixture("peft021-layers")

    def change(state: dict[str, Any]) -> None:
        for key in [key for key in state if key.endswith("_P")]:
            del state[key]

    adapter = edited_adapter(case, tmp_path / "a", change)
    assert pack(adapter, tmp_path / "p.safetensors", base=case.base, exact=True).identical
    assert restored(tmp_path / "p.safetensors", case.base)[0].keys() == values(adapter).keys()


@pytest.mark.parametrize(
    ("ends", "dtype", "way_out"),
    [
        (("_A",), torch.bfloat16, "adapter_dtype='float32'"),
        (("_A",), torch.float64, "Ship it in PEFT's form"),
        (("_A", "_B"), torch.float64, "Ship it in PEFT's form"),
        (("_A", "_B", "_P"), torch.float64, "Ship it in PEFT's form"),
        ((".0",), torch.bfloat16, "Ship it in PEFT's form"),
    ],
    ids=str,
)
def test_dtypes_that_cannot_come_back_are_refused(
    ends: tuple[str, ...], dtype: torch.dtype, way_out: str, tmp_path: Path
) -> None:
    case = fixture("peft021-layers")

    def change(state: dict[str, Any]) -> None:
        for key in state:
            if key.endswith(ends):
                state[key] = state[key].to(dtype) * (1 + 1e-3 * (dtype == torch.float64))

    adapter = edited_adapter(case, tmp_path / "a", change)
    with pytest.raises(UnsupportedError, match="wouldn't come back as it is") as caught:
        pack(adapter, tmp_path / "p.safetensors", base=case.base, exact=True)
    assert way_out in str(caught.value.hint)
    assert not (tmp_path / "p.safetensors").exists()


def test_a_hint_that_says_to_leave_exact_out_is_right(tmp_path: Path) -> None:
    case = fixture("peft021-layers")

    def widen(state: dict[str, Any]) -> None:
        for key in [key for key in state if key.endswith(("_A", "_B", "_P"))]:
            state[key] = state[key].double() * (1 if key.endswith("_P") else 1 + 1e-9)

    adapter = edited_adapter(case, tmp_path / "a", widen)
    with pytest.raises(UnsupportedError) as caught:
        pack(adapter, tmp_path / "p.safetensors", base=case.base, exact=True)
    assert str(caught.value.hint).startswith("Leave exact out")
    assert not pack(adapter, tmp_path / "p.safetensors", base=case.base).identical


def test_rounding_of_v_is_measured(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    exactly = pack(case.adapter, tmp_path / "p.safetensors", base=case.base, exact=True)
    report = pack(case.adapter, tmp_path / "q.safetensors", base=case.base, exact=True, v_dtype="bfloat16")
    assert (exactly.identical, exactly.error) == (True, 0.0)
    assert not report.identical
    other = fixture("peft021-13-numbers")
    rounded = pack(other.adapter, tmp_path / "s.safetensors", base=other.base, v_dtype="bfloat16")
    assert rounded.error > MOST_ERROR
    assert rounded.corrections == 0  # which wouldn't mend v
    assert 1e-4 < report.error < 1e-2
    assert float(read_header(tmp_path / "q.safetensors").metadata["error"]) == pytest.approx(report.error, rel=0.1)
    tensors, _ = restored(tmp_path / "q.safetensors", case.base)
    v = values(case.adapter)["base_model.tinylora_v.0"]
    assert 0 < np.abs(tensors["base_model.tinylora_v.0"] - v).max() <= 2**-8 * np.abs(v).max()

    def change(state: dict[str, Any]) -> None:
        state["base_model.tinylora_v.0"] += 1e5

    large = edited_adapter(case, tmp_path / "a", change)
    with pytest.raises(MismatchError, match="v overflows float16"):
        pack(large, tmp_path / "r.safetensors", base=case.base, v_dtype="float16")


def test_a_weight_of_zeros_comes_back(tmp_path: Path, tinylora: Run) -> None:
    """Its factors look like bfloat16 ones, and its P isn't."""
    base = tmp_path / "base"
    shutil.copytree(ROOT / "bases" / "llama-fp32", base)
    state = load_file(base / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"].zero_()
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    assert tinylora("init", base, "-o", tmp_path / "a", "--target-modules", "all-linear").code == 0
    assert pack(tmp_path / "a", tmp_path / "p.safetensors", base=base, exact=True).identical
    tensors, _ = restored(tmp_path / "p.safetensors", base)
    assert {k: v.tobytes() for k, v in tensors.items()} == {k: v.tobytes() for k, v in values(tmp_path / "a").items()}


def test_a_base_that_moved_a_little_is_told_of(tmp_path: Path) -> None:
    case, base = fixture("peft020-tiny"), tmp_path / "base"
    shutil.copytree(case.base, base)
    state = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {k: v + 1e-3 * v.std() * torch.randn(v.shape, generator=generator) for k, v in state.items()}
    save_file(moved, base / "model.safetensors", metadata={"format": "pt"})
    report = pack(case.adapter, tmp_path / "p.safetensors", base=base)
    assert "a little off the base's weights" in report.warnings[0]
    restored(tmp_path / "p.safetensors", base)


def test_a_base_that_changed_by_one_weight_is_refused(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    base = tmp_path / "base"
    shutil.copytree(case.base, base)
    state = load_file(base / "model.safetensors")
    name = f"{case.modules[0]['name']}.weight"
    state[name][3, 3] += 0.125
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match="aren't those that the adapter was packed with"):
        restored(tmp_path / "p.safetensors", base)


def test_another_base_can_t_be_packed_with(tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    base = tmp_path / "base"
    shutil.copytree(case.base, base)
    state = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    other = {k: torch.randn(v.shape, generator=generator).to(v.dtype) for k, v in state.items()}
    save_file(other, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match="aren't those of the base's weight"):
        pack(case.adapter, tmp_path / "p.safetensors", base=base)
    assert not (tmp_path / "p.safetensors").exists()


def edited(path: Path, *, marked: bool = True, **changes: str | None) -> Path:
    """A copy of a file with other metadata; `marked` with the digest of what it holds now, for what is checked next."""
    file = read_header(path)
    metadata = {k: v for k, v in {**file.metadata, **changes}.items() if v is not None}
    if marked and CONTENT not in changes:
        metadata[CONTENT] = content_mark(metadata, file.tensors, file.read)
    infos = list(file.tensors.values())
    header, _ = build_header([(i.name, i.dtype, i.shape) for i in infos], metadata)
    target = path.with_name("edited.safetensors")
    target.write_bytes(header + b"".join(file.read(i.name).tobytes() for i in infos))
    return target


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"version": "2"}, FormatError, "packed in version 2"),
        ({"config": "["}, FormatError, "no configuration"),
        ({"A": "x"}, MismatchError, "A came out otherwise"),
        ({"P": "x"}, MismatchError, "P came out otherwise"),
        ({"signs": ""}, FormatError, "lacks signs"),
        ({"weights": None}, FormatError, "lack 'weights'"),
        ({CONTENT: None}, FormatError, "lack 'content'"),
        ({CONTENT: "x"}, FormatError, "what it holds isn't what was packed"),
        ({"dtypes": '["bfloat16"]'}, FormatError, "don't fit the 84 modules"),
        ({"groups": "{}"}, FormatError, "isn't a list"),
    ],
    ids=str,
)
def test_a_file_that_was_changed_is_told(
    tmp_path: Path, changes: dict[str, str | None], error: type[Exception], said: str
) -> None:
    case = fixture("peft021-13-numbers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    with pytest.raises(error, match=said):
        restored(edited(tmp_path / "p.safetensors", **changes), case.base)


def test_every_field_is_part_of_the_digest(tmp_path: Path) -> None:
    """Another tying, say, would give v to other modules, and the digests of A, B and P would be right."""
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    metadata = read_header(tmp_path / "p.safetensors").metadata
    config = json.loads(metadata["config"])
    changes = [{key: value + " "} for key, value in metadata.items() if key not in ("format", "version")]
    changes += [{"groups": "[0]"}, {"config": json.dumps(config | {"weight_tying": 0.9})}]
    for change in changes:
        with pytest.raises(FormatError, match="what it holds isn't what was packed"):
            restored(edited(tmp_path / "p.safetensors", marked=False, **change), case.base)


def tampered(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a file with other tensors."""
    state = load_file(path)
    change(state)
    target = path.with_name("tampered.safetensors")
    save_file(state, target, dict(read_header(path).metadata))
    return target


NORM = "base_model.model.model.norm.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update({"v.0": -state["v.0"]}),
        lambda state: state.update({"v.0": state["v.0"].double()}),
        lambda state: state.update({"v.9": state["v.0"].clone()}),
        lambda state: state.update({"P.0": torch.ones(13, 2, 2)}),
        lambda state: state.pop(NORM),
        lambda state: state[NORM].fill_(float("nan")),
        lambda state: state.update({NORM: state[NORM].reshape(1, -1)}),
        lambda state: state.update({NORM + "s": state.pop(NORM)}),
    ],
)
@pytest.mark.parametrize("v_dtype", ["auto", "bfloat16"])
def test_stored_tensors_that_were_changed_are_told(
    change: Callable[[dict[str, Any]], None], v_dtype: str, tmp_path: Path
) -> None:
    case = fixture("peft021-layers")
    adapter = edited_adapter(case, tmp_path / "a", lambda state: state.update({NORM: torch.ones(16)}))
    pack(adapter, tmp_path / "p.safetensors", base=case.base, v_dtype=v_dtype)
    assert restored(tampered(tmp_path / "p.safetensors", lambda state: None), case.base)[0][NORM].all()
    with pytest.raises(FormatError, match="what it holds isn't what was packed"):
        restored(tampered(tmp_path / "p.safetensors", change), case.base)


def test_tensors_that_nothing_packs_are_refused(tmp_path: Path, tinylora: Run) -> None:
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    own = [key for key in values(case.adapter) if key.endswith((".tinylora_A", ".tinylora_v.0"))]
    for key in ("foo", "v.00", "base_model.foo", own[0], own[-1]):
        path = tampered(tmp_path / "p.safetensors", lambda state, key=key: state.update({key: torch.ones(2)}))
        with pytest.raises(FormatError, match=f"holds {key}, which nothing packs"):
            packed_at(path)
        assert tinylora("inspect", path).code == 1


KEYS = ("A", "B", "P", "P_of", "config", "dtypes", "error", "format", "groups", "modules", "signs", "stored", "stream")
WRONG = (
    None,
    "",
    "[",
    "{}",
    "[1]",
    "[[]]",
    "null",
    "x",
    "\u00e9",
    "-1",
    '["nowhere"]',
    '{"r": "2"}',
    '{"u": -1, "r": 0}',
)


@pytest.mark.parametrize("key", [*KEYS, CONTENT, "v", "version", "weights"])
def test_no_metadata_make_it_stumble(key: str, tmp_path: Path, tinylora: Run) -> None:
    """Whatever a field says, the file is read as before, or there is a message."""
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    for value in WRONG:
        path = edited(tmp_path / "p.safetensors", **{key: value})
        result = tinylora("convert", "peft", path, "-o", tmp_path / "o", "--base", case.base, "-f")
        assert result.code == 0 or result.err.startswith("error: "), (key, value)
        shown = tinylora("inspect", path)
        assert shown.code == 0 or shown.err.startswith("error: "), (key, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", "2"), ("r", 0), ("u", -1), ("u", 5), ("weight_tying", 2), ("weight_tying", 0.9), ("projection_seed", 43),
        ("projection_seed", "42"), ("save_projection", 1), ("target_modules", 7), ("target_modules", ["nowhere"]),
        ("target_modules", "("), ("peft_type", "LORA"), ("task_type", 3), ("base_model_name_or_path", 3),
        ("layers_to_transform", "x"), ("modules_to_save", [3]), ("revision", 5), ("task_type", "X"),
        ("modules_to_save", ["("]),
    ],
    ids=str,
)  # fmt: skip
def test_no_configuration_makes_it_stumble(field: str, value: Any, tmp_path: Path, tinylora: Run) -> None:
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    config = json.loads(read_header(tmp_path / "p.safetensors").metadata["config"])
    path = edited(tmp_path / "p.safetensors", config=json.dumps(config | {field: value}))
    result = tinylora("convert", "peft", path, "-o", tmp_path / "o", "--base", case.base)
    assert result.code == 0 or result.err.startswith("error: "), result.err
    shown = tinylora("inspect", path)
    assert shown.code == 0 or shown.err.startswith("error: ")


@pytest.mark.parametrize(("field", "value"), [("task_type", "X"), ("modules_to_save", ["("])])
@pytest.mark.parametrize("modules", [None, '["model.layers.0.self_attn.q_proj"]'], ids=["selected", "named"])
def test_what_peft_could_not_read_is_told_with_the_file(
    field: str, value: Any, modules: str | None, tmp_path: Path
) -> None:
    case = fixture("peft021-layers")
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    config = json.loads(read_header(tmp_path / "p.safetensors").metadata["config"])
    path = edited(tmp_path / "p.safetensors", config=json.dumps(config | {field: value}), modules=modules)
    with pytest.raises(FormatError, match=rf"edited\.safetensors: {field}"):
        restored(path, case.base)


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    (tmp_path / "p.safetensors").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        pack(case.adapter, tmp_path / "p.safetensors", base=case.base)
    assert (tmp_path / "p.safetensors").read_text() == "mine"
    pack(case.adapter, tmp_path / "p.safetensors", base=case.base, force=True)


def test_commands_take_packed_files(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    packed, base = tmp_path / "p.safetensors", case.base
    assert tinylora("convert", "packed", case.adapter, "-o", packed, "--base", base, "--exact").code == 0
    assert tinylora("merge", packed, "--base", base, "-o", tmp_path / "one").code == 0
    assert tinylora("merge", case.adapter, "--base", base, "-o", tmp_path / "two").code == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert tinylora("verify-base", packed, "--base", base).code == 0
    assert tinylora("verify-seed", packed, "--base", base).code == 0
    shown = json.loads(tinylora("inspect", packed, "--json").out)
    assert shown["kind"] == "tinylora-packed"
    assert shown["trainable_parameters"] == sum(v.size for n, v in values(case.adapter).items() if ".tinylora_v." in n)
    assert "packed" in tinylora("inspect", packed).out
    assert tinylora("convert", "peft", packed, "-o", tmp_path / "back", "--base", base).code == 0
    assert (tmp_path / "back" / "adapter_model.safetensors").read_bytes() == (
        case.adapter / "adapter_model.safetensors"
    ).read_bytes()
    assert tinylora("convert", "lora", packed, "-o", tmp_path / "lora", "--base", base).code == 0
    refused = tinylora("merge", packed, "--base", ROOT / "bases" / "llama-fp32", "-o", tmp_path / "no")
    assert refused.code == 1
    assert refused.err.startswith("error: ")


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_other_cpus_restore_the_same_bits(capability: str, tmp_path: Path) -> None:
    """The digests in the file are checked by a process that is kept to other instructions, on one thread."""
    for name in ("peft021-13-numbers", "peft021-t5-fp16", "peft020-gpt2"):
        case = fixture(name)
        path = tmp_path / f"{name}.safetensors"
        pack(case.adapter, path, base=case.base, exact=True)
        code = (
            "import sys, torch; torch.set_num_threads(1)\n"
            "from tinylora_tools import load_adapter\n"
            "load_adapter(sys.argv[1], sys.argv[2]); print(torch.backends.cpu.get_cpu_capability())"
        )
        mkl = {"default": "SSE4_2", "avx2": "AVX2", "avx512": "AVX512"}[capability]
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "MKL_ENABLE_INSTRUCTIONS": mkl}
        run = subprocess.run(
            [sys.executable, "-c", code, str(path), str(case.base)],
            capture_output=True, text=True, env=environment, cwd=ROOT.parent,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr


def test_what_is_no_packed_file_passes_through(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    source = find_source(case.adapter)
    assert (source.form, source.path) == ("peft", case.adapter)
    opened = source.open()
    assert (opened.header, opened.imported) == (source.content, ())
