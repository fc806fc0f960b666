"""Six projects' adapters in PEFT's form: their updates are the very ones, or a message says what is missing."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_projects as projects
import pytest
import torch
from fixture_data import ROOT, tensors
from safetensors.torch import load_file, save_file
from third_party_updates import BASES, QWEN2, converted, near, options

from tinylora_tools.adapters.source import load_adapter
from tinylora_tools.errors import FormatError, TinyLoraError
from tinylora_tools.formats.pickled.stored import load_pickle
from tinylora_tools.formats.third_party import find

Run = Callable[..., Any]


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("dialect", projects.PROJECTS)
def test_updates_are_those_of_the_projects_formulas(dialect: str, base: Path, tinylora: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    updates = projects.PROJECTS[dialect][0](base, source)
    result = tinylora("convert", "peft", source, "-o", out, "--base", base, *options(dialect, source), "--json")
    assert result.code == 0, result.err
    near(converted(out), updates)
    report = json.loads(result.out)
    assert report["modules"] == len(updates)
    assert any("signs of singular pairs" in w for w in report["warnings"]) == (
        dialect in ("anrgusc", "spuuntries", "chi-shan0707")
    )
    insisted = tinylora("convert", "peft", source, "-o", tmp_path / "no", "--from", "peft")
    assert insisted.code == 1
    assert f"--from {dialect}" in insisted.err


@pytest.mark.parametrize("dialect", projects.PROJECTS)
def test_peft_loads_what_was_converted(dialect: str, tinylora: Run, tmp_path: Path) -> None:
    """PEFT's own groups, order and forward pass: its merge adds the update."""
    import warnings

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, source, out = BASES["llama-fp32"], tmp_path / "source", tmp_path / "out"
    updates = projects.PROJECTS[dialect][0](base, source)
    result = tinylora("convert", "peft", source, "-o", out, "--base", base, *options(dialect, source))
    assert result.code == 0, result.err
    model = AutoModelForCausalLM.from_pretrained(base)
    before = {name: model.get_submodule(name).weight.detach().double().numpy().copy() for name in updates}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(model, str(out)).merge_and_unload()
    after = {name: merged.get_submodule(name).weight.detach().double().numpy() - before[name] for name in updates}
    near(after, updates, 1e-4)  # float32 rounds the sum, not the update


def test_the_other_outputs_take_them_too(tinylora: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    updates = projects.make_spuuntries(QWEN2, source)
    assert tinylora("convert", "lora", source, "-o", tmp_path / "lora", "--base", QWEN2).code == 0
    state = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    found = {}
    for name in updates:
        A, B = (state[f"base_model.model.{name}.lora_{part}.weight"].double().numpy() for part in "AB")
        found[name] = B @ A
    near(found, updates)
    packed = tmp_path / "packed.safetensors"
    result = tinylora("convert", "packed", source, "-o", packed, "--base", QWEN2)
    assert result.code == 0, result.err
    assert tinylora("convert", "peft", packed, "-o", tmp_path / "back", "--base", QWEN2).code == 0
    near(converted(tmp_path / "back"), updates, 1.1e-3)


@pytest.mark.parametrize(
    ("mode", "factor"), [("none", 1), ("all", 1), ("tiled", 4), ("tiled", 100), ("structured", 5), ("structured", 1)]
)
def test_anrguscs_groups(mode: str, factor: int, tinylora: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    updates = projects.make_anrgusc(QWEN2, source, mode=mode, factor=factor, alpha=1.0)
    said = ["rank=2", "alpha=1", f"tie_mode={mode}", *([f"tie_factor={factor}"] if factor > 1 else ["tie_factor=1"])]
    if mode in ("none", "all"):
        said.pop()
    settings = [part for pair in said for part in ("--setting", pair)]
    result = tinylora("convert", "peft", source, "-o", out, "--base", QWEN2, *settings)
    assert result.code == 0, result.err
    near(converted(out), updates)


def test_anrguscs_settings_are_asked_for_one_by_one(tinylora: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    projects.make_anrgusc(QWEN2, source, manifest=False)
    given: list[str] = []
    for name, value in (("rank", 2), ("alpha", 2), ("tie_mode", "tiled"), ("tie_factor", 5), ("seed", 13)):
        result = tinylora("convert", "peft", source, "-o", tmp_path / "o", "--base", QWEN2, *given)
        assert result.code == 1
        assert f"{name} isn't in the file" in result.err
        assert f"--setting {name}=VALUE" in result.err
        given += ["--setting", f"{name}={value}"]
    assert tinylora("convert", "peft", source, "-o", tmp_path / "o", "--base", QWEN2, *given).code == 0
    config = json.loads((tmp_path / "o" / "adapter_config.json").read_text())
    assert (config["r"], config["u"], config["save_projection"]) == (2, 3, True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["tie_factor=6"], "These would fit: tie_mode=tiled tie_factor=5"),
        (["tie_mode=neat"], "expected one of none, all, tiled, structured"),
        (["alpha=nan"], "expected a number"),
        (["rank=0"], "expected 1 or more"),
        (["rank=two"], "expected a whole number"),
        (["width=3"], "this dialect has no such setting"),
    ],
    ids=str,
)
def test_settings_that_dont_do(given: list[str], said: str, tinylora: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    projects.make_anrgusc(QWEN2, source)
    settings = {"rank": "2", "alpha": "2", "tie_mode": "tiled", "tie_factor": "5"}
    settings |= dict(pair.split("=") for pair in given)
    pairs = [part for name, value in settings.items() for part in ("--setting", f"{name}={value}")]
    result = tinylora("convert", "peft", source, "-o", tmp_path / "o", "--base", QWEN2, *pairs)
    assert result.code == 1
    assert said in result.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("constraint", "tied"), [("skew_symmetric", True), ("none", False)])
def test_cho104s_variants(constraint: str, tied: bool, tinylora: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    updates = projects.make_cho104(QWEN2, source, constraint=constraint, tied=tied)
    said = ["--setting", f"constraint={constraint}", "--setting", f"factors={source / 'svd.pt'}"]
    said += ["--projection", str(source / "kept.pt")]
    result = tinylora("convert", "peft", source, "-o", out, "--base", QWEN2, *said)
    assert result.code == 0, result.err
    near(converted(out), updates)
    refused = tinylora("convert", "peft", source, "-o", tmp_path / "no", "--setting", "constraint=mhc")
    assert refused.code == 1
    assert "no linear map of v" in refused.err


def test_what_brings_its_factors_needs_no_base(tinylora: Run, tmp_path: Path) -> None:
    for dialect in ("curiouscaliboi", "guokaku"):
        source, out = tmp_path / dialect, tmp_path / f"{dialect}-peft"
        updates = projects.PROJECTS[dialect][0](QWEN2, source)
        result = tinylora(
            "convert",
            "peft",
            source,
            "-o",
            out,
        )
        assert result.code == 0, result.err
        assert "no file says what the base is" in result.err
        config = json.loads((out / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(QWEN2)
        (out / "adapter_config.json").write_text(json.dumps(config))
        near(converted(out), updates)


def test_a_directory_may_be_named_by_a_dot(tinylora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    projects.make_curiouscaliboi(QWEN2, tmp_path / "source")
    (tmp_path / "source" / "inner").mkdir()
    for here, there in ((".", "source"), ("..", "source/inner")):
        monkeypatch.chdir(tmp_path / there)
        result = tinylora(
            "convert",
            "peft",
            here,
            "-o",
            tmp_path / f"o{len(here)}",
        )
        assert result.code == 0, result.err


def test_options_that_would_be_ignored_are_refused(tinylora: Run, tmp_path: Path) -> None:
    adapter = ROOT / "peft021-layers" / "adapter"
    for option, value in (("--setting", "rank=2"), ("--projection", adapter), ("--against", QWEN2)):
        result = tinylora("convert", "peft", adapter, "-o", tmp_path / "o", option, value)
        assert result.code == 1
        assert f"{option} is for other projects' adapters" in result.err


def test_other_commands_name_the_conversion(tinylora: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    projects.make_spuuntries(QWEN2, source)
    for arguments in (["merge", source, "-o", tmp_path / "o"], ["verify-base", source]):
        result = tinylora(*arguments, *(["--base", QWEN2]))
        assert result.code == 1
        assert "another project's adapter (spuuntries)" in result.err
        assert f"tinylora convert peft {source} -o ADAPTER --base DIR" in result.err


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('this ran')",))


def test_pickles_are_not_run(tinylora: Run, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    torch.save({"v_0": torch.zeros(3), "x": Trap()}, tmp_path / "source" / "adapter.pt")
    result = tinylora("convert", "peft", tmp_path / "source", "-o", tmp_path / "o", "--base", QWEN2)
    assert result.code == 1
    assert "can be read safely" in result.err


def test_tensors_of_a_gpu_are_read_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save({"v_0": torch.arange(3.0)}, tmp_path / "adapter.pt")
    monkeypatch.undo()
    assert b"cuda:0" in (tmp_path / "adapter.pt").read_bytes()
    assert load_pickle(tmp_path / "adapter.pt")["v_0"].read().tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("dialect", projects.PROJECTS)
def test_truncated_files_are_told(dialect: str, tinylora: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    projects.PROJECTS[dialect][0](QWEN2, source)
    path = next(
        source / name
        for name in ("adapter_state.pt", "adapter.pt", "adapter.safetensors", "model.safetensors", "tiny_lora_v.pt",
                     "best_model.pt")
        if (source / name).exists()
    )  # fmt: skip
    path.write_bytes(path.read_bytes()[:-100])
    given = ["--base", str(QWEN2), *options(dialect, source)]
    result = tinylora("convert", "peft", source, "-o", tmp_path / "o", *given)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert not (tmp_path / "o").exists()


def spoilt(value: Any, rng: random.Random) -> Any:
    """Something else in one place of nested dictionaries."""
    if not isinstance(value, dict):
        wrong = [None, 3, -1, 1.5, True, "x", [], {}, ["a"], torch.zeros(0), torch.zeros(3, 3), torch.zeros(())]
        wrong += [torch.tensor([1, 2, 3]), torch.full((3,), torch.nan), torch.zeros(4, dtype=torch.complex64)]
        return rng.choice(wrong)
    value, key = dict(value), rng.choice(list(value))
    kind = rng.random()
    if kind < 0.2:
        del value[key]
    elif kind < 0.3:
        value[rng.choice(["other", "v_99", "a.v", 5])] = spoilt(None, rng)
    else:
        value[key] = spoilt(value[key] if kind < 0.8 else None, rng)
    return value


@pytest.mark.parametrize("count", [8, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dialect", projects.PROJECTS)
def test_files_with_other_things_in_them_are_told(dialect: str, count: int, tmp_path: Path) -> None:
    """Whatever else is in a file, there is an adapter or a message."""
    good, rng = tmp_path / "good", random.Random(dialect)
    projects.PROJECTS[dialect][0](QWEN2, good)
    for number in range(count):
        source = tmp_path / str(number)
        shutil.copytree(good, source)
        path = rng.choice(sorted(p for p in source.iterdir() if (dialect, p.name) != ("guokaku", "config.json")))
        if path.suffix == ".pt":
            torch.save(spoilt(torch.load(path, weights_only=True), rng), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(spoilt(json.loads(path.read_text()), rng), default=str))
        else:
            state = spoilt(load_file(path), rng)
            save_file({str(k): v.contiguous() for k, v in state.items() if isinstance(v, torch.Tensor)}, path)
        pairs = [pair for pair in options(dialect, source) if not pair.startswith("--")]
        said = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        kept = next((Path(pair) for pair in pairs if pair.endswith("kept.pt")), None)
        with contextlib.suppress(TinyLoraError):
            load_adapter(source, QWEN2, settings=said, projection=kept)


def test_an_adapter_config_without_modules_is_told(tinylora: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    projects.make_curiouscaliboi(QWEN2, source)
    (source / "adapter_config.json").write_text("{}")
    result = tinylora(
        "convert",
        "peft",
        source,
        "-o",
        tmp_path / "o",
    )
    assert result.code == 1
    assert "aren't a list of objects" in result.err


def test_nothing_of_a_base_is_read_twice_as_an_adapter() -> None:
    """A plain checkpoint is no adapter of anybody's."""
    assert find(QWEN2) is None
    assert len(tensors(QWEN2)) > 0
    with pytest.raises(FormatError):
        load_pickle(QWEN2 / "config.json")
