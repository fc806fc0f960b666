"""Packed and back: what comes back, on other CPUs too, and what isn't restored because something was changed."""

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
from fixture_data import MERGEABLE, ROOT, Fixture, fixture
from packed_files import edited, edited_adapter, restored, tampered, values
from safetensors.torch import load_file, save_file

from tinylora_tools.adapters.source import find_source
from tinylora_tools.errors import FormatError, MismatchError
from tinylora_tools.formats.packed import CONTENT
from tinylora_tools.formats.safetensors_file import read_header
from tinylora_tools.ops.convert.packed import pack
from tinylora_tools.ops.convert.packed_factors import MOST_ERROR


@pytest.fixture(scope="module")
def packed_exactly(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters that this CPU packed, each followed by its base."""
    directory, found = tmp_path_factory.mktemp("packed"), list[Path]()
    for name in ("peft021-13-numbers", "peft021-t5-fp16", "peft020-gpt2"):
        case = fixture(name)
        pack(case.adapter, directory / f"{name}.safetensors", base=case.base, exact=True)
        found += [directory / f"{name}.safetensors", case.base]
    return found


@pytest.mark.parametrize("case", MERGEABLE, ids=lambda case: case.name)
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


def test_a_weight_of_zeros_comes_back(tmp_path: Path, tinylora: Callable[..., Any]) -> None:
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


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"A": "x"}, MismatchError, "A came out otherwise"),
        ({"P": "x"}, MismatchError, "P came out otherwise"),
        ({"signs": ""}, FormatError, "lacks signs"),
        ({CONTENT: "x"}, FormatError, "what it holds isn't what was packed"),
        ({"dtypes": '["bfloat16"]'}, FormatError, "don't fit the 84 modules"),
    ],
    ids=str,
)
def test_a_file_that_was_changed_is_told(
    tmp_path: Path, packed_exactly: list[Path], changes: dict[str, str | None], error: type[Exception], said: str
) -> None:
    shutil.copy(packed_exactly[0], tmp_path / "p.safetensors")
    with pytest.raises(error, match=said):
        restored(edited(tmp_path / "p.safetensors", **changes), packed_exactly[1])


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


@pytest.mark.parametrize(
    "capability",
    ["default", pytest.param("avx2", marks=pytest.mark.slow), pytest.param("avx512", marks=pytest.mark.slow)],
)
def test_other_cpus_restore_the_same_bits(capability: str, packed_exactly: list[Path]) -> None:
    """The digests in the files are checked by a process that is kept to other instructions, on one thread."""
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from tinylora_tools import load_adapter\n"
        "for at in range(1, len(sys.argv), 2): load_adapter(*sys.argv[at : at + 2])\n"
        "print(torch.backends.cpu.get_cpu_capability())"
    )
    mkl = {"default": "SSE4_2", "avx2": "AVX2", "avx512": "AVX512"}[capability]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "MKL_ENABLE_INSTRUCTIONS": mkl}
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, packed_exactly)],
        capture_output=True, text=True, env=environment, cwd=ROOT.parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_what_is_no_packed_file_passes_through(tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    source = find_source(case.adapter)
    assert (source.form, source.path) == ("peft", case.adapter)
    opened = source.open()
    assert (opened.header, opened.imported) == (source.content, ())
