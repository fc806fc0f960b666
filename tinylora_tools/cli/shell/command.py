"""Commands whose help opens with what they do and how they are called, and has its options in groups."""

from __future__ import annotations

import inspect
from typing import Any

import click

from ...ranks import ranks

#: A group's title, and the parameters in it; what isn't named here comes first, as "Options".
SECTIONS: dict[str, tuple[str, ...]] = {
    "The adapter's settings": (
        "r", "u", "weight_tying", "projection_seed", "save_projection", "init_v_bound", "tinylora_dropout",
        "fan_in_fan_out", "bias", "init_weights", "init_seed", "base_model", "adapter_dtype",
    ),
    "Which modules": (
        "target_modules", "layers_to_transform", "layers_pattern", "task_type", "modules_to_save",
    ),
    "What files don't tell": (
        "architecture", "module_order", "first_adapter", "seeding", "release", "stream", "kind", "settings",
        "projection", "against",
    ),
    "How it computes": ("device", "threads", "no_cache"),
    "What it shows": ("form", "as_json", "rows", "save", "quiet", "help"),
}  # fmt: skip


def write_help(text: str, formatter: click.HelpFormatter) -> None:
    """A help text: its sentence, its examples, and what else there is to say."""
    parts = inspect.cleandoc(text).split("\n\n")
    examples = [part for part in parts if part.startswith("\b\nExamples:")]
    for part in (parts[0], *examples, *(part for part in parts[1:] if part not in examples)):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(part)


class Command(click.Command):
    """A click command whose help is one sentence, examples, what else there is to say, and options in groups; and last
    where its words are explained."""

    #: Whether the processes that torchrun starts divide its work.
    divided = False

    def invoke(self, ctx: click.Context) -> Any:
        if ranks().count > 1 and not self.divided:
            raise click.UsageError("torchrun starts several processes, and this command's work isn't divided.", ctx)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text("`tinylora help WORD` tells what a word means: residual, stream, group, triplet, ...")

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_help(self.help or "", formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Options", *SECTIONS)}
        of = {name: title for title, names in SECTIONS.items() for name in names}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                name = "help" if "--help" in parameter.opts else parameter.name or ""
                sections[of.get(name, "Options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class DividedCommand(Command):
    """One whose work is divided by the processes that torchrun starts."""

    divided = True
