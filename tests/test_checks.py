"""Arguments that have to be one of a few values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture

import tinylora_tools as tl
from tinylora_tools.checks import at_least, dtype_named, one_of

CASE = fixture("peft021-layers")


def test_what_is_expected_is_said_in_the_callers_words() -> None:
    with pytest.raises(tl.UnsupportedError, match=r"^tied='no', expected one of untie, share$"):
        one_of("tied", "no", ("untie", "share"))
    with pytest.raises(tl.UnsupportedError, match=r"^threads=0, expected 1 or more$"):
        at_least("threads", 0, 1)
    at_least("threads", None, 1)


def test_dtypes_have_short_names() -> None:
    assert [dtype_named("dtype", name) for name in ("bf16", "fp16", "fp32", "bfloat16")] == [
        "bfloat16", "float16", "float32", "bfloat16",
    ]  # fmt: skip
    assert dtype_named("dtype", "auto", "auto") == "auto"
    with pytest.raises(tl.UnsupportedError, match="dtype='float64', expected one of float32"):
        dtype_named("dtype", "float64")


WRONG: dict[str, Callable[[Path], object]] = {
    "tied='no'": lambda out: tl.merge(CASE.adapter, out, CASE.base, tied="no"),
    "dtype='float8'": lambda out: tl.merge(CASE.adapter, out, CASE.base, dtype="float8"),
    "release='6'": lambda out: tl.merge(CASE.adapter, out, CASE.base, release="6"),
    "threads=-1": lambda out: tl.merge(CASE.adapter, out, CASE.base, threads=-1),
    "no adapter is named": lambda out: tl.merge([], out, CASE.base),
    "server='x'": lambda out: tl.to_lora(CASE.adapter, out, server="x"),  # type: ignore[arg-type]
    "adapter_dtype='int8'": lambda out: tl.to_peft(CASE.adapter, out, adapter_dtype="int8"),
    "v_dtype='int8'": lambda out: tl.pack(CASE.adapter, f"{out}.safetensors", base=CASE.base, v_dtype="int8"),
    "device='tpu'": lambda out: tl.verify_seed(device="tpu"),
    "init_seed=-1": lambda out: tl.init(CASE.base, out, init_seed=-1),
    "budget=-1": lambda out: tl.count(CASE.base, budget=-1),
    "n=0": lambda out: tl.draw_projection(1, 2, 2, 0),
    "r is 'a', expected an integer": lambda out: tl.count(CASE.base, tl.TinyLoraConfig(r="a")),  # type: ignore[arg-type]
    "init_weights is 'x'": lambda out: tl.init(CASE.base, out, tl.TinyLoraConfig(init_weights="x")),
    "an empty path names nothing": lambda out: tl.load_adapter(""),
}  # fmt: skip


@pytest.mark.parametrize("said", WRONG)
def test_no_function_takes_a_value_that_it_doesn_t_know(said: str, tmp_path: Path) -> None:
    with pytest.raises(tl.TinyLoraError) as caught:
        WRONG[said](tmp_path / "o")
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_short_names_write_the_very_bytes_of_the_long_ones(tmp_path: Path) -> None:
    written: dict[str, Any] = {}
    for name in ("bf16", "bfloat16"):
        tl.merge(CASE.adapter, tmp_path / name, CASE.base, dtype=name)
        written[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert written["bf16"] == written["bfloat16"]
