"""Make docs/schemas, a JSON schema of each command's --json, and docs/json.md, from the reports that are printed.

python scripts/make_schemas.py
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tinylora_tools.ops.architecture.run import ArchitectureReport
from tinylora_tools.ops.cache import CacheReport
from tinylora_tools.ops.convert.gguf import GgufReport
from tinylora_tools.ops.convert.lora import LoraReport
from tinylora_tools.ops.convert.packed import PackReport
from tinylora_tools.ops.convert.peft import PeftReport
from tinylora_tools.ops.create.count import CountReport
from tinylora_tools.ops.create.init import InitReport
from tinylora_tools.ops.diff import DiffReport
from tinylora_tools.ops.doctor import DoctorReport
from tinylora_tools.ops.factor import FactorReport
from tinylora_tools.ops.inspect.adapter import AdapterReport
from tinylora_tools.ops.inspect.checkpoint import CheckpointReport
from tinylora_tools.ops.inspect.files import FilesReport
from tinylora_tools.ops.inspect.packed import PackedReport
from tinylora_tools.ops.inspect.several import SeveralReport
from tinylora_tools.ops.inspect.third_party import ThirdPartyReport
from tinylora_tools.ops.merge.report import MergeReport
from tinylora_tools.ops.merge.verify_output import OutputReport
from tinylora_tools.ops.project import ProjectReport
from tinylora_tools.ops.push.run import PushReport
from tinylora_tools.ops.verify.base import BaseReport
from tinylora_tools.ops.verify.seed import VerifyReport

ROOT = Path(__file__).parent.parent
SCHEMAS, PAGE = ROOT / "docs" / "schemas", ROOT / "docs" / "json.md"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

#: Each command's reports: `inspect` has one for each kind of source.
REPORTS: Mapping[str, Sequence[Any]] = {
    "architecture": [ArchitectureReport],
    "cache": [CacheReport],
    "convert gguf": [GgufReport],
    "convert lora": [LoraReport],
    "convert packed": [PackReport],
    "convert peft": [PeftReport],
    "count": [CountReport],
    "diff": [DiffReport],
    "doctor": [DoctorReport],
    "factor": [FactorReport],
    "init": [InitReport],
    "inspect": [AdapterReport, CheckpointReport, PackedReport, ThirdPartyReport, SeveralReport, FilesReport],
    "merge": [MergeReport],
    "project": [ProjectReport],
    "push": [PushReport],
    "verify-base": [BaseReport],
    "verify-output": [OutputReport],
    "verify-seed": [VerifyReport],
}

#: What every command prints in place of its report when something is wrong.
ERROR = {
    "type": "object",
    "description": "What is wrong, where, and what to do about it.",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "where": {"type": ["string", "null"]},
                "hint": {"type": ["string", "null"]},
            },
            "required": ["message", "where", "hint"],
            "additionalProperties": False,
        }
    },
    "required": ["error"],
    "additionalProperties": False,
}

_PLAIN: Mapping[Any, Any] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},  # null for NaN and infinities
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def schema_of(command: str) -> dict[str, Any]:
    """The schema of what a command prints with --json."""
    defined: dict[str, Any] = {}
    reports = [_form(report, defined) for report in REPORTS[command]]
    return {
        "$schema": DIALECT,
        "title": f"tinylora {command} --json",
        "anyOf": [*reports, ERROR],
        "$defs": dict(sorted(defined.items())),
    }


def _form(kind: Any, defined: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value of this type; dataclasses are defined once."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return _any_of([_form(one, defined) for one in inner])
    if origin is tuple and inner[-1:] != (...,):
        items = [_form(one, defined) for one in inner]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (list, tuple, Sequence):
        return {"type": "array", "items": _form(inner[0], defined)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _form(inner[1], defined)}
    if not is_dataclass(kind):
        raise TypeError(f"{kind} has no form in JSON")
    name = kind.__name__
    if name not in defined:
        defined[name] = {}
        hints = get_type_hints(kind)
        names = [field.name for field in fields(kind)]
        told = {one: {"description": text} for one, text in _attributes(kind).items()}
        defined[name] = {
            "type": "object",
            "description": _said(kind),
            "properties": {one: _form(hints[one], defined) | told.get(one, {}) for one in names},
            "required": names,
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}


def _any_of(forms: list[dict[str, Any]]) -> dict[str, Any]:
    """One of several forms; plain ones together."""
    rest = [form for form in forms if form.keys() != {"type"}]
    plain = [form["type"] for form in forms if form not in rest]
    types_ = list(dict.fromkeys(one for some in plain for one in (some if isinstance(some, list) else [some])))
    if not rest:
        return {"type": types_}
    return {"anyOf": [*rest, *([{"type": types_}] if types_ else [])]}


def _said(kind: Any) -> str:
    """A class's docstring as one paragraph, without its table of attributes."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes\n")[0]
    return " ".join(text.split())


def _attributes(kind: Any) -> dict[str, str]:
    """What a class's docstring says of each attribute."""
    table = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes\n")[2]
    found: dict[str, str] = {}
    for entry in re.finditer(r"^(\w[\w, ]*?) :.*\n((?: {4}.*\n?)*)", table, re.MULTILINE):
        for name in entry[1].split(", "):
            found[name] = " ".join(entry[2].split())
    return found


def page() -> str:
    """docs/json.md: each command's keys."""
    return "".join(f"{line}\n" for line in _page())


def _page() -> Iterator[str]:
    yield from HEAD.splitlines()
    for command in REPORTS:
        schema = schema_of(command)
        yield from ("", f"## {command}", "", f"[Schema](schemas/{file_name(command)})")
        tops = [form["$ref"].rpartition("/")[2] for form in schema["anyOf"] if "$ref" in form]
        for name in [*tops, *(one for one in schema["$defs"] if one not in tops)]:
            its = schema["$defs"][name]
            if not (name in tops and len(tops) == 1):
                yield from ("", f"### {name}")
            yield from ("", *textwrap.wrap(_escaped(its["description"]), 120, break_on_hyphens=False))
            yield from ("", "| Key | |", "|---|---|")
            for key, form in its["properties"].items():
                told = f": {_escaped(form['description'])}" if "description" in form else ""
                yield f"| `{key}` | {_words(form)}{told} |"


def _escaped(text: str) -> str:
    return re.sub(r"([*<>|])", r"\\\1", text) if "`" not in text else text


def _words(form: Mapping[str, Any]) -> str:
    """What a value is, in words."""
    if "anyOf" in form:
        return " or ".join(dict.fromkeys(_words(one) for one in form["anyOf"]))
    if "$ref" in form:
        return str(form["$ref"].rpartition("/")[2])
    if "enum" in form:
        return ", ".join(f"`{json.dumps(one)}`" for one in form["enum"])
    if "type" not in form:
        return "anything"
    if isinstance(form["type"], list):
        return " or ".join(form["type"])
    if form["type"] == "array":
        inner = form["prefixItems"] if "prefixItems" in form else [form["items"]]
        return f"array of {', '.join(_words(one) for one in inner)}"
    if form["type"] == "object":
        return f"object, of {_words(form['additionalProperties'])}"
    return str(form["type"])


def file_name(command: str) -> str:
    return f"{command.replace(' ', '-')}.schema.json"


HEAD = """# JSON

What each command prints with `--json`, made from the reports' own types by `scripts/make_schemas.py`; each has a schema
in [docs/schemas](schemas), and tests hold what the commands print against those. Keys stay; a later release may add
some. NaN and infinities are null. When something is wrong, stdout has `{"error": {"message", "where", "hint"}}`
instead, and the [exit code](command-line.md#exit-codes) isn't 0. The [Python functions](python.md) return the same
reports."""


def main() -> None:
    SCHEMAS.mkdir(exist_ok=True)
    for command in REPORTS:
        text = json.dumps(schema_of(command), indent=1) + "\n"
        (SCHEMAS / file_name(command)).write_text(text, "utf-8")
    PAGE.write_text(page(), "utf-8")
    print(f"{len(REPORTS)} schemas", file=sys.stderr)


if __name__ == "__main__":
    main()
