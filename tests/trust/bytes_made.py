"""What each fixture, and adapters of other ranks, become, by sha256: in a process that may do with less of its CPU.

    PYTHONPATH=.:tests python tests/trust/bytes_made.py record     # writes bytes.json, which every machine comes to

Of a merge, and of what `convert lora`, `convert peft`, `project` and `convert packed` with the way back write, the
weights' files count: they are functions of the inputs alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from damage import edit, edit_json
from fixture_data import MERGEABLE, Fixture, fixture

import tinylora_tools as tl
from tinylora_tools.formats.tensors import PIECE
from tinylora_tools.ops.merge.writing import write

RECORDED = Path(__file__).parent / "bytes.json"

#: Adapters of other ranks: the fixture whose base and keys they have, r, u, and the dtype of what is merged.
RANKS = [
    ("peft020-tiny", 1, 64, "auto"), ("peft020-tiny", 5, 3, "auto"), ("peft020-tiny", 16, 7, "bfloat16"),
    ("peft021-named", 1, 13, "auto"), ("peft021-named", 7, 100, "auto"), ("peft021-13-numbers", 3, 33, "auto"),
    ("peft021-13-numbers", 8, 1, "float32"),
]  # fmt: skip

#: A merge's settings beside its inputs: threads, elements of a block, and device. "cpu:0" is torch's arithmetic.
Setting = tuple[int, int, str]
USUAL: Setting = (1, write.BLOCK_ELEMENTS, "cpu")


def of_other_rank(name: str, r: int, u: int, place: Path) -> Path:
    """A fixture's adapter with numbers of another rank: the same on every machine, for they are integers' quotients."""
    adapter = place / "ranked"
    shutil.copytree(fixture(name).adapter, adapter)
    random = np.random.RandomState(r * 1000 + u)

    def numbers(*shape: int) -> Any:
        return (random.randint(-(1 << 20), 1 << 20, shape) / (1 << 21)).astype(np.float32)

    def change(tensors: dict[str, Any]) -> None:
        for key, value in sorted(tensors.items()):
            if key.endswith("tinylora_A"):
                tensors[key] = numbers(r, value.shape[1])
            elif key.endswith("tinylora_B"):
                tensors[key] = numbers(value.shape[0], r)
            else:
                tensors[key] = numbers(u, r, r) if key.endswith("tinylora_P") else numbers(u)

    edit(adapter / "adapter_model.safetensors", change)
    edit_json(adapter / "adapter_config.json", r=r, u=u)
    return adapter


def digest(directory: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
    return found.hexdigest()


def merged(adapter: Path, base: Path, place: Path, settings: Sequence[Setting], **given: Any) -> str:
    """Of a merge with each of the settings, which have to agree."""
    found = set()
    for number, (threads, elements, device) in enumerate(settings):
        write.MergeWriter.__init__.__kwdefaults__["block_elements"] = elements
        tl.merge(adapter, place / f"merged{number}", base, threads=threads, device=device, **given)
        found.add(digest(place / f"merged{number}"))
    write.MergeWriter.__init__.__kwdefaults__["block_elements"] = write.BLOCK_ELEMENTS
    return " and ".join(sorted(found))


def converted(case: Fixture, place: Path, packed: Path) -> Iterator[tuple[str, str]]:
    """Of everything else: of what is packed, the way back."""
    base = case.base
    ways: dict[str, Callable[[Path], object]] = {
        "lora": lambda out: tl.to_lora(case.adapter, out, base=base),
        "peft": lambda out: tl.to_peft(case.adapter, out, base=base),
        "project": lambda out: tl.project(case.adapter, out, base=base),
        "project, scalar": lambda out: tl.project(case.adapter, out, base=base, stream="torch-cpu-scalar"),
        "restored": lambda out: tl.to_peft(packed / f"{case.name}.safetensors", out, base=base),
    }
    for name, make in ways.items():
        make(place / name)
        yield name, digest(place / name)


def pack_all(directory: Path) -> Path:
    """Every fixture, packed."""
    for case in MERGEABLE:
        tl.pack(case.adapter, directory / f"{case.name}.safetensors", base=case.base)
    return directory


def made(settings: Sequence[Setting], packed: Path | None) -> dict[str, dict[str, str]]:
    """Each case's digests; those of merges alone, where nothing is packed."""
    found: dict[str, dict[str, str]] = {}
    for case in MERGEABLE:
        with tempfile.TemporaryDirectory() as place:
            found[case.name] = {"merge": merged(case.adapter, case.base, Path(place), settings)}
            found[case.name] |= dict(converted(case, Path(place), packed)) if packed else {}
    for name, r, u, dtype in RANKS:
        with tempfile.TemporaryDirectory() as place:
            adapter = of_other_rank(name, r, u, Path(place))
            digests = merged(adapter, fixture(name).base, Path(place), settings, verify_base=False, dtype=dtype)
            found[f"{name}, r={r}, u={u}, {dtype}"] = {"merge": digests}
    return found


def features() -> list[str]:
    """What NumPy uses of this CPU in this process, and torch's capability, where it was needed."""
    from numpy._core import _multiarray_umath as numpy

    used = [name for name in numpy.__cpu_dispatch__ if numpy.__cpu_features__.get(name)]
    torch = sys.modules.get("torch")
    return used if torch is None else [*used, torch.backends.cpu.get_cpu_capability()]


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1] == "record":
        with tempfile.TemporaryDirectory() as packed:
            RECORDED.write_text(json.dumps(made([USUAL], pack_all(Path(packed))), indent=1) + "\n")
        return
    settings, packed = json.loads(sys.argv[1])
    print(json.dumps([made(settings, Path(packed) if packed else None), features()]))


if __name__ == "__main__":
    main()
