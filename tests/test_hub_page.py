"""The commands of docs/hub.md run, beside a Hub on this machine that has what they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from edited_files import edited_copy
from fixture_data import fixture
from hub_runs import run_beside
from hub_server import COMMIT, hub_serving

from tinylora_tools import merge

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "hub.md"
CASE = fixture("peft021-13-numbers")


def shown() -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def test_commands_do_what_the_page_says(tmp_path: Path) -> None:
    adapter = edited_copy(CASE.name, tmp_path / "adapter", base_model_name_or_path="Qwen/Qwen2.5-0.5B")
    reports, outputs = {}, []
    with hub_serving(CASE.base, others={"Qwen/Qwen2.5-0.5B": CASE.base, "you/adapter": adapter}) as hub:
        for command in shown():
            program, *words = shlex.split(command)
            assert program == "tinylora"
            if "-o" in words:
                outputs.append(tmp_path / f"merged{len(outputs)}")
                words[words.index("-o") + 1] = str(outputs[-1])
            code, reports[command], said = run_beside(hub.address, tmp_path / "home", *words)
            assert code == 0, (command, said)
    base = f"hf://Qwen/Qwen2.5-0.5B@{COMMIT}"
    inspected, counted, of_adapter, merged, streamed, checked = reports.values()
    assert [inspected["path"], counted["base"], merged["base"], streamed["base"], checked["path"]] == [base] * 5
    assert counted["trainable_parameters"] == of_adapter["trainable_parameters"] == 13
    assert {row["verdict"] for row in checked["files"]} == {"same"}
    one, other = (output / "model.safetensors" for output in outputs)
    merge(CASE.adapter, tmp_path / "wanted", CASE.base)
    assert one.read_bytes() == other.read_bytes() == (tmp_path / "wanted" / "model.safetensors").read_bytes()


def test_each_failure_of_the_page_is_said_by_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "tinylora_tools" / "sources").glob("*.py"))
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", PAGE.read_text(), re.M)[1:]
    assert len(rows) == 11
    for row in rows:
        assert re.split(r", (?:and )?", row.removesuffix(" ..."))[-1] in code, row
