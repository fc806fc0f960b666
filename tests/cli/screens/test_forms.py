"""Reports as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass

from tinylora_tools.cli.screens.blocks import Cell, Facts, Items, Table, Text, columns
from tinylora_tools.cli.screens.forms import as_csv, as_json, as_markdown


@dataclass(frozen=True)
class Row:
    name: str
    rho: float | None
    ok: bool
    shape: list[int]


@dataclass(frozen=True)
class Report:
    base: str
    modules: list[Row]
    layers: dict[str, Row]


REPORT = Report(
    "a,b", [Row('q"\n', 0.1, True, [1, 2]), Row("k", None, False, [])], {"first": Row("x", float("nan"), True, [])}
)


def test_csv_has_json_s_keys_and_numbers_in_full() -> None:
    rows = list(csv.DictReader(as_csv(REPORT, asdict(REPORT), "modules").splitlines()))
    assert rows == [
        {"name": 'q"\\n', "rho": "0.1", "ok": "true", "shape": "[1, 2]"},
        {"name": "k", "rho": "", "ok": "false", "shape": "[]"},
    ]


def test_csv_of_rows_by_name_and_of_none() -> None:
    @dataclass(frozen=True)
    class Count:
        bytes: int

    @dataclass(frozen=True)
    class Counted:
        layers: dict[str, Count]

    globals().update(Count=Count)  # where the annotation is looked up
    counted = Counted({"norm": Count(7)})
    assert as_csv(counted, asdict(counted), "layers") == "name,bytes\nnorm,7\n"
    assert as_csv(Counted({}), {"layers": {}}, "layers") == "name,bytes\n"


def test_csv_of_a_report_without_rows() -> None:
    lines = as_csv(REPORT, asdict(REPORT), None).splitlines()
    assert lines[:2] == ["key,value", 'base,"a,b"']
    assert json.loads(next(csv.reader(lines[3:]))[1])["first"]["rho"] is None


def test_json_has_null_for_what_it_lacks() -> None:
    assert json.loads(as_json({"x": [float("inf"), (1.5, -float("inf"))]})) == {"x": [None, [1.5, None]]}


def test_markdown() -> None:
    table = Table(columns("Module", "ulp", names=("Module",)), [("a|b", Cell("1", 0.5))], notes=[("a|b", "<odd>")])
    blocks = [Facts("Adapter", "at/*", {"v": "13"}), table, Items(["one", "two"]), Text("All agree.", "good")]
    assert as_markdown(blocks) == (
        "**Adapter** at/\\*\n\n| | |\n|---|---|\n| v | 13 |\n\n"
        "| Module | ulp |\n|---|---:|\n| a\\|b | 1 |\n\n- a\\|b: \\<odd\\>\n\n- one\n- two\n\n**All agree.**\n"
    )
