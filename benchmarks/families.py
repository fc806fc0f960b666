"""Every family of the installed transformers, built small, through every command: what comes of each, beside PEFT.

    python benchmarks/families.py                 # all, half an hour
    python benchmarks/families.py llama qwen3     # some

Writes what came of them into families.json, which tests/test_families.py holds, and docs/families.md has as a table. A
family that isn't there can't be built small, or be run on text, an image or a sound alone, or has no output that its
adapter changes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTPUT = Path(__file__).with_suffix(".json")
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]


def outcomes(family: str, shape: str) -> dict[str, str] | None:
    """What each command makes of a family: "right", "refused", "warned" or "wrong", and why; None if it can't be
    run."""
    from family_runs import SHAPES, FamilyRun

    with tempfile.TemporaryDirectory() as directory:
        try:
            run = FamilyRun(family, Path(directory), **SHAPES[shape])
            return run.run() if run.effect > 0 else None
        except Exception as error:
            print(f"{family}: not run: {type(error).__name__}: {str(error)[:150]}", file=sys.stderr)
            return None


def main(families: list[str]) -> None:
    import torch
    import transformers
    from family_runs import SHAPES
    from make_architectures import model_types

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(OUTPUT.read_text())["families"] if families else {}
    for family in families or model_types():
        results = {shape: one for shape in SHAPES if (one := outcomes(family, shape)) is not None}
        found.pop(family, None)
        if results.keys() == SHAPES.keys():
            print(family, results, flush=True)
            found[family] = {
                shape: {command: outcome.partition(":")[0] for command, outcome in one.items()}
                for shape, one in results.items()
            }
            recorded = {"transformers": transformers.__version__, "families": dict(sorted(found.items()))}
            OUTPUT.write_text(json.dumps(recorded, indent=1) + "\n")
    for shape in SHAPES:
        for command in next(iter(found.values()), {}).get(shape, ()):
            said = [one[shape][command] for one in found.values()]
            counts = {what: said.count(what) for what in ("right", "refused", "warned", "wrong")}
            print(f"{shape}, {command}: of {len(found)} families {counts}")


if __name__ == "__main__":
    main(sys.argv[1:])
