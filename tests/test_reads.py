"""How often each file is opened and each tensor is read: once, and at most once more than the arithmetic needs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fixture_data import ROOT, fixture

from tinylora_tools.bases import held
from tinylora_tools.cli import main
from tinylora_tools.formats import safetensors_file
from tinylora_tools.formats.pickled import stored
from tinylora_tools.ops.merge.writing import tensor as merge_tensor

BASE = ROOT / "bases" / "qwen2-bf16"
STORED, SEED_ONLY, PICKLED = "peft021-layers", "peft021-13-numbers", "peft021-pickled"


@dataclass
class Seen:
    """Files that were opened, headers that were parsed, tensors that were read by (file, name), whole or by rows, and
    temporary directories that were made."""

    opened: Counter[Path] = field(default_factory=Counter)
    headers: Counter[Path] = field(default_factory=Counter)
    read: Counter[tuple[Path, str]] = field(default_factory=Counter)
    rows: Counter[tuple[Path, str]] = field(default_factory=Counter)
    temporary: list[str] = field(default_factory=list)

    def reads_of(self, path: Path) -> dict[str, int]:
        return {name: n for (file, name), n in self.read.items() if file == path}


_watching: list[Seen] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open" and isinstance(arguments[0], (str, bytes, Path)):
        _watching[0].opened[Path(str(arguments[0]))] += 1
    elif event in ("tempfile.mkdtemp", "tempfile.mkstemp"):
        _watching[0].temporary.append(str(arguments[0]))


sys.addaudithook(_hook)  # which can't be taken away again: it watches only while a test asks


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """Run a command in this process, and say what it opened and read."""
    real_read, real_pieces = safetensors_file.SafetensorsFile.read, safetensors_file.SafetensorsFile.pieces
    real_rows, real_parse = merge_tensor.OpenSource.rows, safetensors_file._parse

    def parse(path: Path, text: bytes) -> Any:
        if _watching:
            _watching[0].headers[path] += 1
        return real_parse(path, text)

    def read(self: Any, name: str) -> Any:
        if _watching:
            _watching[0].read[self.path, name] += 1
        return real_read(self, name)

    def pieces(self: Any, name: str) -> Any:
        if _watching:
            _watching[0].read[self.path, name] += 1
        return real_pieces(self, name)

    def rows(self: Any, tensor: Any, columns: int, first: int, last: int, buffer: Any) -> Any:
        if _watching and self._descriptor(tensor) is not None:
            _watching[0].rows[self._file.path, tensor.name] += (last - first) * columns
        return real_rows(self, tensor, columns, first, last, buffer)

    monkeypatch.setattr(safetensors_file.SafetensorsFile, "read", read)
    monkeypatch.setattr(safetensors_file.SafetensorsFile, "pieces", pieces)
    monkeypatch.setattr(merge_tensor.OpenSource, "rows", rows)
    monkeypatch.setattr(safetensors_file, "_parse", parse)

    @contextmanager
    def watching() -> Iterator[Seen]:
        seen = Seen()
        _watching.append(seen)
        try:
            yield seen
        finally:
            _watching.clear()

    def run(*arguments: object) -> Seen:
        monkeypatch.setattr(sys, "argv", ["tinylora", *map(str, arguments)])
        with watching() as seen, pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code, arguments
        return seen

    return run


#: What a command's arithmetic needs of each kind of tensor, as often: where P is stored, and where it is drawn.
NEEDS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "inspect": ({"P": 1, "v": 1}, {"v": 1}),
    "merge": ({"A": 1, "B": 1, "P": 1, "v": 1}, {"A": 1, "B": 1, "v": 1}),
    "convert lora": ({"A": 1, "B": 1, "P": 1, "v": 1}, {"A": 1, "B": 1, "v": 1}),
    "convert peft": ({"A": 1, "B": 1, "P": 1, "v": 1}, {"A": 1, "B": 1, "v": 1}),
    "convert packed": ({"A": 1, "B": 1, "P": 1, "v": 1}, {"A": 1, "B": 1, "v": 1}),
    "verify-base": ({"A": 1, "B": 1}, {"A": 1, "B": 1}),
    "verify-seed": ({"A": 1, "B": 1, "P": 1}, {"A": 1, "B": 1, "v": 1}),
    "project": ({"A": 1, "B": 1, "P": 1, "v": 1}, {"A": 1, "B": 1, "v": 1}),
}


def arguments_of(command: str, source: Path, base: Path, out: Path) -> list[object]:
    of_base = ["--base", base]
    output = ["-o", out.with_suffix(".safetensors") if command == "convert packed" else out]
    writes = command not in ("inspect", "verify-base", "verify-seed")
    return [*command.split(), source, *of_base, *(output if writes else [])]


def kind_of(name: str) -> str:
    return "v" if ".tinylora_v." in name else name.rpartition("_")[2] if ".tinylora_" in name else "other"


@pytest.mark.parametrize("name", [STORED, SEED_ONLY])
@pytest.mark.parametrize("command", NEEDS)
def test_a_peft_adapter_is_opened_once(command: str, name: str, watched: Callable[..., Seen], tmp_path: Path) -> None:
    case = fixture(name)
    seen = watched(*arguments_of(command, case.adapter, case.base, tmp_path / "o"))
    weights = case.adapter / "adapter_model.safetensors"
    assert seen.opened[weights] == 1
    assert set(seen.headers.values()) == {1}, seen.headers  # the base's and the output's too
    assert seen.opened[case.adapter / "adapter_config.json"] <= (2 if command in ("convert peft", "project") else 1)
    assert seen.opened[case.base / "config.json"] <= (2 if command == "merge" else 1)  # which copies it
    needs = NEEDS[command][0 if name == STORED else 1]
    for tensor, times in seen.reads_of(weights).items():
        assert times <= needs.get(kind_of(tensor), 0) + 1, (tensor, times)
    assert seen.temporary == []


@pytest.mark.parametrize("command", [command for command in NEEDS if command != "verify-seed"])
def test_a_pickled_adapter_is_unpickled_once(
    command: str, watched: Callable[..., Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, loaded, real = fixture(PICKLED), list[Path](), stored._read_archive

    def load(path: Path, *rest: Any) -> Any:
        loaded.append(path)
        return real(path, *rest)

    monkeypatch.setattr(stored, "_read_archive", load)
    watched(*arguments_of(command, case.adapter, case.base, tmp_path / "o"))
    assert loaded.count(case.adapter / "adapter_model.bin") == 1
    assert len(set(loaded)) == len(loaded)  # its base is pickled too


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tinylora_tools import pack

    case = fixture(STORED)
    path = tmp_path_factory.mktemp("packed") / "p.safetensors"
    pack(case.adapter, path, base=case.base)
    return path


@pytest.mark.parametrize("command", NEEDS)
def test_a_packed_adapter_is_opened_once(
    command: str, watched: Callable[..., Seen], tmp_path: Path, packed: Path
) -> None:
    base = fixture(STORED).base
    seen = watched(*arguments_of(command, packed, base, tmp_path / "o"))
    assert seen.opened[packed] == 1
    assert set(seen.headers.values()) == {1}, seen.headers
    assert all(times <= 2 for times in seen.reads_of(packed).values())  # its digest, and what is made of it
    assert seen.opened[base / "config.json"] <= (2 if command == "merge" else 1)
    assert seen.temporary == []


def read_times(seen: Seen, base: Path, targeted: set[str]) -> set[float]:
    """How often the targeted weights of a base were read, whole or by rows."""
    from tinylora_tools.formats.safetensors_file import read_header

    found = set()
    for shard in sorted(base.glob("*.safetensors")):
        for name, info in read_header(shard).tensors.items():
            if name in targeted:
                found.add(seen.read[shard, name] + seen.rows[shard, name] / info.parameters)
    return found


def test_a_merge_of_a_packed_file_reads_each_weight_once(
    watched: Callable[..., Seen], tmp_path: Path, packed: Path
) -> None:
    case = fixture(STORED)
    seen = watched("merge", packed, "--base", case.base, "-o", tmp_path / "o")
    assert read_times(seen, case.base, {f"{row['name']}.weight" for row in case.modules}) == {1}


def test_a_merge_says_where_weights_do_not_fit(
    watched: Callable[..., Seen],
    tmp_path: Path,
    packed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = fixture(STORED)
    watched("merge", packed, "--base", case.base, "-o", tmp_path / "fits")
    assert "memory" not in capsys.readouterr().err
    monkeypatch.setattr(held, "memory_at_hand", lambda: 100)
    seen = watched("merge", packed, "--base", case.base, "-o", tmp_path / "o")
    assert "don't fit into half of the" in capsys.readouterr().err
    assert read_times(seen, case.base, {f"{row['name']}.weight" for row in case.modules}) == {3}
    one, other = (tmp_path / name / "model.safetensors" for name in ("fits", "o"))
    assert one.read_bytes() == other.read_bytes()
