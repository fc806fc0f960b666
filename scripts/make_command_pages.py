"""Make docs/commands, a page for each command, of its help; and what `tinylora help WORD` knows, of docs/glossary.md.

python scripts/make_command_pages.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click

from tinylora_tools.cli.about.help import GLOSSARY
from tinylora_tools.cli.main import ABOUT, COMMANDS, group

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "commands"

#: What else there is to read on a command.
MORE = {
    "architecture": ["[What is known of models](../architectures.md)"],
    "convert gguf": ["[Other forms](../convert.md#gguf-for-llamacpp-and-ollama)", "[Serving](../serving.md)"],
    "convert lora": ["[Other forms](../convert.md#lora-for-serving)", "[Serving](../serving.md)"],
    "convert packed": ["[Other forms](../convert.md#packed-for-shipping)"],
    "convert peft": ["[Other forms](../convert.md#peft-anew)"],
    "count": ["[Adapters without training them](../new-adapters.md)"],
    "factor": ["[Singular triplets](../factors.md)"],
    "init": ["[Adapters without training them](../new-adapters.md)"],
    "inspect": ["[What PEFT's files hold](../peft-format.md)"],
    "merge": ["[How a merge works](../merge.md)"],
    "project": ["[The projection streams](../projection-streams.md)"],
    "verify-base": ["[Is it this base?](../factors.md#tinylora-verify-base)"],
    "verify-output": ["[Is this still it?](../merge.md#is-this-still-it)"],
    "verify-seed": ["[Does it reproduce?](../verify-seed.md)"],
}

#: Columns of the help.
_WIDTH = 100


def commands() -> Iterator[tuple[str, click.Context]]:
    """Every command that isn't a group, with a context to ask it for its help in."""
    root = click.Context(group, info_name="tinylora", **{**group.context_settings, "max_content_width": _WIDTH})
    for name in (*COMMANDS, *ABOUT):
        yield from _below(name, root)


def _below(name: str, parent: click.Context) -> Iterator[tuple[str, click.Context]]:
    found = parent.command
    command = found.get_command(parent, name) if isinstance(found, click.Group) else None
    if command is None:
        raise LookupError(name)
    context = click.Context(command, info_name=name, parent=parent, terminal_width=_WIDTH)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _below(inner, context)
    else:
        yield context.command_path.removeprefix("tinylora "), context


def pages() -> dict[str, str]:
    """Each page's text by its name."""
    found, rows = {}, []
    for name, context in commands():
        file = f"{name.replace(' ', '-')}.md"
        more = [*MORE.get(name, []), f"[JSON](../json.md#{name.replace(' ', '-')})"]
        if name in ("help", "completion"):
            more = ["[The command line](../command-line.md#completion)"]
        text = context.get_help()
        found[file] = f"# tinylora {name}\n\n```text\n{text}\n```\n\nMore: {', '.join(more)}.\n"
        sentence = " ".join((context.command.help or "").split("\n\n")[0].split())
        rows.append(f"| [`{name}`]({file}) | {sentence} |\n")
    head = "# Commands\n\nMade from their help by `scripts/make_command_pages.py`.\n\n| Command | |\n|---|---|\n"
    return {"index.md": head + "".join(rows), **found}


def glossary() -> str:
    """JSON of words to what they mean, without links."""
    rows = re.findall(r"^\| (?!Word)([^|]+) \| (.+) \|$", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.M)
    alone, link = r" \(\[[^]]+\]\([^)]+\)\)", r"\[([^]]+)\]\([^)]+\)"
    told = {words: re.sub(link, r"\1", re.sub(alone, "", meaning)) for words, meaning in rows}
    return json.dumps(told, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    GLOSSARY.write_text(glossary(), "utf-8")
    PAGES.mkdir(exist_ok=True)
    made = pages()
    for old in PAGES.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, "utf-8")
    print(f"{len(made)} pages")


if __name__ == "__main__":
    main()
