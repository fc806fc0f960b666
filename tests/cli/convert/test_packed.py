"""`tinylora convert packed` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import fixture
from safetensors.numpy import load_file

Run = Callable[..., Any]


@pytest.mark.parametrize(
    "option", [["--for", "vllm"], ["--scale", "0.5"], ["--dtype", "bf16"], ["--no-save-projection"]], ids=" ".join
)
def test_other_forms_options_are_wrong_usage(complaint: Callable[..., str], option: list[str]) -> None:
    case = fixture("peft021-13-numbers")
    arguments = ["convert", "packed", case.adapter, "--base", case.base, "-o", "OUT"]
    assert f"No such option '{option[0]}'" in complaint(2, *arguments, *option)


def test_the_base_is_always_asked_for(complaint: Callable[..., str]) -> None:
    """Even where the adapter names one: what is packed is bound to its very weights."""
    case = fixture("peft021-13-numbers")
    assert "Missing option '--base'" in complaint(2, "convert", "packed", case.adapter, "-o", "OUT")


def test_the_report_is_of_the_file(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft021-layers")
    for option in ([], ["--exact"]):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        arguments = ["convert", "packed", case.adapter, "--base", case.base, *option]
        report = json.loads(tinylora(*arguments, "-o", out, "--json").out)
        stored = load_file(out)
        assert report["bytes_written"] == out.stat().st_size < 4096
        assert report["payload_bytes"] == sum(values.nbytes for name, values in stored.items() if name.startswith("v."))
        text = tinylora(*arguments, "-o", out, "-f").out
        corrections = report["corrections"]
        noun = "correction" if corrections == 1 else "corrections"
        exactly = "restores bit for bit" if report["identical"] else f"restores updates within {report['error']:.1e}"
        assert text.splitlines()[1] == f"  {report['payload_bytes']} bytes of v, {corrections:,} {noun}; {exactly}"
        assert report["identical"] or option != ["--exact"]
