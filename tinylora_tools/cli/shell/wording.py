"""Arguments of the public functions as the command line's options."""

from __future__ import annotations

from collections.abc import Mapping

#: Options that aren't called what their argument is.
_OPTIONS = {
    "all_tensors": "--all",
    "kind": "--from",
    "record_to": "--record",
    "release": "--transformers",
    "server": "--for",
    "settings": "--setting",
}

#: What stands for any value of an option.
_VALUES = {
    "against": "MERGED", "base": "DIR", "first_adapter": "ADAPTER", "module_order": "FILE", "projection": "FILE",
    "record_to": "FILE",
}  # fmt: skip

_COMMANDS = {
    "pack": "convert packed", "to_gguf": "convert gguf", "to_lora": "convert lora", "to_peft": "convert peft",
}  # fmt: skip


class OptionWords:
    """A `wording.Words` that names options and commands."""

    def argument(self, name: str) -> str:
        return _OPTIONS.get(name, "--" + name.replace("_", "-"))

    def given(self, name: str, value: object) -> str:
        option = self.argument(name)
        if isinstance(value, Mapping):
            return " ".join(f"{option} {key}={'VALUE' if one is ... else one}" for key, one in value.items())
        if isinstance(value, bool):
            return option if value else option.replace("--", "--no-", 1)
        if value is ...:
            return f"{option} {_VALUES.get(name, 'VALUE')}"
        return f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}"

    def call(self, function: str, positional: tuple[object, ...], arguments: Mapping[str, object]) -> str:
        if function == "described_by":  # what a command does for one run
            return f"--architecture {[*positional, *arguments.values()][0]}"
        source, output = positional[:1], positional[1:]
        words = ["tinylora", _COMMANDS.get(function, function.replace("_", "-")), *map(str, source)]
        words += [f"-o {path}" for path in output]
        return " ".join([*words, *(self.given(name, value) for name, value in arguments.items())])
