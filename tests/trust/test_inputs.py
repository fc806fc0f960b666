"""An input that changes while it is used: what came of it gets no name, in every command that writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import snapshot
from fixture_data import fixture
from trust.runs import COMMANDS, Ways, names, ways_in

import tinylora_tools as tl
from tinylora_tools.errors import MismatchError
from tinylora_tools.output import staging

Run = Callable[..., Any]

OF_BASE = ("BASE/model.safetensors", "BASE/config.json")
OF_SHARDS = (
    "SHARDS/model-00001-of-00003.safetensors", "SHARDS/model-00002-of-00003.safetensors", "SHARDS/config.json",
    "SHARDS/model-00003-of-00003.safetensors", "SHARDS/model.safetensors.index.json", "SHARDS/generation_config.json",
)  # fmt: skip
OF_ADAPTER = ("WHOLE/adapter_model.safetensors", "WHOLE/adapter_config.json")

#: The files that each command's output depends on.
INPUTS: dict[str, tuple[str, ...]] = {
    "merge": (*OF_BASE, *OF_ADAPTER, "BASE/generation_config.json"),
    "merge of shards": (*OF_SHARDS, "SHARDED/adapter_model.safetensors", "SHARDED/adapter_config.json"),
    "merge with a manifest": (*OF_BASE, *OF_ADAPTER, "BASE/generation_config.json"),
    "init": OF_BASE,
    "factor": OF_BASE,
    "convert gguf": (*OF_ADAPTER, "BASE/config.json"),
    "convert lora": (*OF_ADAPTER, "BASE/config.json"),
    "convert peft": (*OF_ADAPTER,),
    "convert packed": (*OF_BASE, *OF_ADAPTER),
    "project": ("SHARDED/adapter_model.safetensors", "SHARDED/adapter_config.json", "SHARDS/config.json"),
    "verify-seed": OF_ADAPTER,
    "architecture": ("BASE/config.json",),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Ways:
    """Of its own, for they are changed."""
    return ways_in(tmp_path_factory.mktemp("changed"))


def test_every_command_is_listed() -> None:
    assert COMMANDS.keys() - INPUTS.keys() == {"project of a seed"}  # which reads nothing


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, all_ in INPUTS.items() for name in all_])
def test_an_input_that_was_written_to(
    command: str, name: str, inputs: Ways, tinylora: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As late as can be: when all is written, and has no name yet."""
    inputs.clear()
    place, _, rest = name.partition("/")
    path, real = inputs.places[place] / rest, staging.require_unchanged

    def touched(**given: Any) -> None:
        state = path.stat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        real(**given)

    monkeypatch.setattr(staging, "require_unchanged", touched)
    result = tinylora(*inputs.arguments(command))
    assert (result.code, f"{path}: was changed while this run used it: it was written to" in result.err) == (1, True)
    kept = [f".{inputs.output(command).name}.tinylora-partial"] if command == "factor" else []
    assert names(inputs.places["OUT"].parent) == kept
    monkeypatch.undo()
    assert tinylora(*inputs.arguments(command)).code == 0


def test_an_open_adapter_whose_file_was_replaced(tmp_path: Path, inputs: Ways) -> None:
    """Opened long before, and read now: its header is another file's."""
    adapter = tl.load_adapter(inputs.places["WHOLE"], inputs.places["BASE"])
    weights = inputs.places["WHOLE"] / "adapter_model.safetensors"
    state = weights.stat()
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    for write in (tl.merge, tl.to_lora, tl.to_peft):
        with pytest.raises(MismatchError, match="was changed while this run used it"):
            write(adapter, tmp_path / "out", base=inputs.places["BASE"])
    assert list(tmp_path.iterdir()) == []
    tl.merge(tl.load_adapter(inputs.places["WHOLE"]), tmp_path / "out", base=inputs.places["BASE"])


def test_a_pickled_shard_that_shrinks_while_it_is_merged(
    tmp_path: Path, tinylora: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message, where a file that is mapped into memory would end the process by SIGBUS."""
    case = fixture("peft021-layers")
    base = tmp_path / "base"
    base.mkdir()
    from safetensors.torch import load_file

    torch.save(load_file(case.base / "model.safetensors"), base / "pytorch_model.bin")
    for name in ("config.json", "generation_config.json"):
        (base / name).write_bytes((case.base / name).read_bytes())
    from tinylora_tools.ops.merge import run

    real = run._write

    def shrink(*arguments: Any, **given: Any) -> Any:
        os.truncate(base / "pytorch_model.bin", 20_000)
        return real(*arguments, **given)

    monkeypatch.setattr(run, "_write", shrink)
    result = tinylora("merge", case.adapter, "--base", base, "-o", tmp_path / "out")
    assert (result.code, "the source ended early" in result.err) == (1, True), result
    assert names(tmp_path) == ["base"]
    assert "out" not in snapshot(tmp_path)
