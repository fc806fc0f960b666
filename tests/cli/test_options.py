"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import snapshot
from fixture_data import ROOT, fixture
from safetensors import safe_open

Run = Callable[..., Any]
BASE = ROOT / "bases" / "qwen2-bf16"


def test_scales_that_are_no_scales(tinylora: Run, tmp_path: Path) -> None:
    adapter, base = fixture("peft020-tiny").adapter, fixture("peft020-tiny").base
    for scale in ("inf", "-inf", "nan"):
        result = tinylora("merge", adapter, "--base", base, "-o", tmp_path / "o", f"--scale={scale}")
        assert (result.code, f"'{scale}' is not a finite number" in result.err) == (2, True), result
        result = tinylora("convert", "lora", adapter, "-o", tmp_path / "o", f"--scale={scale}")
        assert (result.code, f"'{scale}' is not a finite number" in result.err) == (2, True), result


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["count", BASE, "--weight-tying", "nan"], "is not a finite number"),
        (["factor", BASE, "-o", "OUT", "--threads", "0"], "x>=1"),
    ],
    ids=str,
)
def test_values_that_cannot_be_parsed_are_wrong_usage(
    complaint: Callable[..., str], arguments: list[object], said: str
) -> None:
    assert said in complaint(2, *arguments)


@pytest.mark.parametrize("command", [("merge",), ("convert", "lora")], ids=" ".join)
def test_a_scale_is_for_all_adapters_or_for_each(tinylora: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    case = fixture("peft020-tiny")
    both = [*command, case.adapter, case.adapter, "--base", case.base]

    def weights(out: str, *scales: str) -> bytes:
        options = [part for scale in scales for part in ("--scale", scale)]
        assert tinylora(*both, "-o", tmp_path / out, *options).code == 0
        (path,) = (tmp_path / out).glob("*.safetensors")
        return path.read_bytes()

    assert weights("once", "0.5") == weights("each", "0.5", "0.5") != weights("other", "0.5", "0.25")
    assert weights("none") == weights("one", "1", "1")
    for adapters, times in ((1, 2), (2, 3), (3, 2)):
        options = ["--scale", "1"] * times
        result = tinylora(*command, *[case.adapter] * adapters, "-o", tmp_path / "o", *options)
        assert result.code == 2
        assert f"--scale is given {times} times for {adapters} adapters: once, or for each." in result.err
    assert not (tmp_path / "o").exists()


#: Every command with a dtype, of an adapter whose factors each of them keeps, and the tensors that get it.
DTYPES = {
    "merge": (["merge", "ADAPTER", "--dtype"], "norm.weight"),
    "convert lora": (["convert", "lora", "ADAPTER", "--dtype"], "lora_B.weight"),
    "convert peft": (["convert", "peft", "ADAPTER", "--adapter-dtype"], "tinylora_A"),
    "convert packed": (["convert", "packed", "ADAPTER", "--v-dtype"], "v.0"),
    "project": (["project", "--seed", "1", "-u", "3", "-r", "2", "--dtype"], "P.0"),
}


@pytest.mark.parametrize(("short", "long"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
@pytest.mark.parametrize("name", DTYPES)
def test_short_names_of_dtypes(tinylora: Run, tmp_path: Path, name: str, short: str, long: str) -> None:
    case = fixture("peft021-named" if short == "fp16" else "peft021-layers")
    (*arguments, option), ending = DTYPES[name]
    typed = [case.adapter if part == "ADAPTER" else part for part in arguments]
    typed += ["--base", case.base] if "ADAPTER" in arguments else []
    files = []
    for dtype in (short, long):
        out = tmp_path / f"{dtype}.safetensors"
        result = tinylora(*typed, option, dtype, "-o", out)
        assert result.code == 0, result
        files.append(next(out.glob("*.safetensors")) if out.is_dir() else out)
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[0], "pt") as file:
        (kind,) = {file.get_tensor(key).dtype for key in file.keys() if key.endswith(ending)}  # noqa: SIM118
    assert kind == getattr(torch, long)


@pytest.mark.parametrize(
    "arguments",
    [
        ["merge", "ADAPTER", "-o", "OUT"],
        ["convert", "lora", "ADAPTER", "-o", "OUT"],
        ["convert", "peft", "ADAPTER", "-o", "OUT"],
        ["convert", "packed", "ADAPTER", "-o", "OUT"],
        ["factor", "BASE", "-o", "OUT", "--target-modules", "q_proj"],
        ["init", "BASE", "-o", "OUT", "--target-modules", "q_proj"],
        ["verify-base", "ADAPTER"],
    ],
    ids=lambda arguments: " ".join(arguments[: 2 if arguments[0] == "convert" else 1]),
)
def test_threads_change_nothing(tinylora: Run, tmp_path: Path, arguments: list[str]) -> None:
    """The files that are written are the same for every number, and so is the verdict where none is."""
    case, found = fixture("peft020-tiny"), list[object]()
    places = {"ADAPTER": case.adapter, "BASE": case.base}
    more = ["--base", case.base] if "ADAPTER" in arguments else []
    for threads in (1, 3):
        out = tmp_path / f"{threads}.safetensors"
        typed = [out if part == "OUT" else places.get(part, part) for part in arguments]
        result = tinylora(*typed, *more, "--threads", threads, "--json")
        assert result.code == 0, result
        if "OUT" in arguments:
            found.append(snapshot(out) if out.is_dir() else out.read_bytes())
        else:
            found.append({key: value for key, value in json.loads(result.out).items() if key != "seconds"})
    assert found[0] == found[1]
    assert "x>=1" in " ".join(tinylora(*typed, *more, "--threads", 0).err.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "ADAPTER"],
        ["merge", "ADAPTER", "-o", "OUT"],
        ["convert", "lora", "ADAPTER", "-o", "OUT"],
        ["convert", "peft", "ADAPTER", "-o", "OUT"],
        ["convert", "packed", "ADAPTER", "-o", "OUT.safetensors"],
        ["project", "ADAPTER", "-o", "OUT"],
        ["verify-seed", "ADAPTER"],
    ],
    ids=lambda arguments: " ".join(arguments[: 2 if arguments[0] == "convert" else 1]),
)
def test_an_order_may_name_more_modules_everywhere(tinylora: Run, tmp_path: Path, arguments: list[str]) -> None:
    """And what an adapter that was there first does to P is everywhere the same."""
    case, order, first = fixture("peft020-seed-only"), tmp_path / "order.txt", tmp_path / "first.txt"
    names = [row["name"] for row in case.modules]
    typed = [case.adapter if part == "ADAPTER" else str(part).replace("OUT", str(tmp_path / "o")) for part in arguments]
    typed += [] if arguments[0] == "verify-seed" else ["--base", case.base]
    typed += ["--json", *(["-f"] if "-o" in arguments else [])]
    first.write_text("\n".join(["model.embed_tokens", *names]))
    found = []
    for listed in (["model.embed_tokens", *names, "lm_head"], names):
        order.write_text("\n".join(listed))
        for more in ([], ["--first-adapter", case.adapter]):  # it was the first itself
            result = tinylora(*typed, "--module-order", order, *more)
            assert result.code == 0, result
            written = sorted(path for path in tmp_path.rglob("*.safetensors"))
            report = {key: value for key, value in json.loads(result.out).items() if key != "seconds"}
            found.append((report, [path.read_bytes() for path in written]))
    assert found[0] == found[1] == found[2] == found[3]
    result = tinylora(*typed, "--module-order", order, "--first-adapter", first)
    if "packed" in arguments:
        assert "its P aren't stored, and have the seeds of another adapter's places" in result.err
        return
    assert result.code == 0, result
    written = sorted(path for path in tmp_path.rglob("*.safetensors"))
    report = {key: value for key, value in json.loads(result.out).items() if key != "seconds"}
    same = arguments[:2] == ["convert", "peft"]  # which leaves P out, as it is
    assert (found[0] == (report, [path.read_bytes() for path in written])) == same
