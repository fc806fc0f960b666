"""Reports for programs and for pages: JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from .blocks import Block, Cell, Facts, Items, Text
from .words import printable

#: What a report can be written as, "table" being a screen.
FORMS = ("table", "json", "markdown", "csv")


def as_json(value: object) -> str:
    """JSON; null for NaN and Inf, which JSON hasn't, and a file may hold."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=True, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(report: object, report_fields: Mapping[str, Any], rows: str | None) -> str:
    """The rows that a report has under a key, with JSON's keys as titles and numbers in full; for a report without rows
    its own keys and values. A value that is no number and no text is written as JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows is None:
        writer.writerow(["key", "value"])
        writer.writerows([key, _field(value)] for key, value in report_fields.items())
        return text.getvalue()
    found = report_fields[rows]
    named = {"name": None} if isinstance(found, dict) else {}
    titles = [*named, *_titles(report, rows)]
    writer.writerow(titles)
    for row in [{"name": name, **row} for name, row in found.items()] if isinstance(found, dict) else found:
        writer.writerow([_field(row[title]) for title in titles])
    return text.getvalue()


def _titles(report: object, rows: str) -> list[str]:
    """The keys of a report's rows, be there any or none."""
    kind = get_args(get_type_hints(type(report))[rows])[-1]
    if not is_dataclass(kind):
        raise TypeError(f"{rows} of {type(report).__name__} are no rows")
    return [field.name for field in fields(kind)]


def _field(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return json.dumps(_finite(value), ensure_ascii=True)
    return printable(value) if isinstance(value, str) else repr(value)


def as_markdown(blocks: Iterable[Block]) -> str:
    """A report for a page, a pull request or a job's summary: all rows of all tables."""
    return "\n\n".join("\n".join(_markdown(block)) for block in blocks) + "\n"


def _markdown(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        text = _escaped(block.text)
        yield f"**{text}**" if block.style in ("bold", "good", "bad") else text
    elif isinstance(block, Facts):
        yield from (f"**{_escaped(block.kind)}** {_escaped(block.which)}", "", "| | |", "|---|---|")
        yield from (_row((label, text)) for label, text in block.facts.items())
    elif isinstance(block, Items):
        yield from (f"- {_escaped(text)}" for text in block.rows)
    else:
        yield _row(column.title for column in block.columns)
        yield "|" + "|".join("---:" if column.holds == "number" else "---" for column in block.columns) + "|"
        yield from (_row(row) for row in block.rows)
        said = [f"- {_escaped(name)}: {_escaped(note)}" for name, note in block.notes]
        yield from ["", *said] if said else []


def _row(cells: Iterable[str | Cell]) -> str:
    return "| " + " | ".join(_escaped(cell.text if isinstance(cell, Cell) else cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Text that no page takes for markup."""
    return re.sub(r"([\\`*<>\[\]|#~])", r"\\\1", printable(text))
