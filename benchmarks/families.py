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

ROOT = Path(__file__).parent.parent
OUTPUT = Path(__file__).with_suffix(".json")
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]


def outcomes(family: str) -> dict[str, str] | None:
    """What each command makes of a family: "right", "refused", "warned" or "wrong", and why; None if it can't be
    run."""
    from family_runs import FamilyRun

    with tempfile.TemporaryDirectory() as directory:
        try:
            run = FamilyRun(family, Path(directory))
            return run.run() if run.effect > 0 else None
        except Exception as error:
            print(f"{family}: not run: {type(error).__name__}: {str(error)[:150]}", file=sys.stderr)
            return None


def main(families: list[str]) -> None:
    import torch
    import transformers
    from make_architectures import model_types

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    found: dict[str, dict[str, str]] = json.loads(OUTPUT.read_text())["families"] if families else {}
    for family in families or model_types():
        results = outcomes(family)
        found.pop(family, None)
        if results is not None:
            print(family, results, flush=True)
            found[family] = {command: outcome.partition(":")[0] for command, outcome in results.items()}
            recorded = {"transformers": transformers.__version__, "families": dict(sorted(found.items()))}
            OUTPUT.write_text(json.dumps(recorded, indent=1) + "\n")
    for command in next(iter(found.values()), ()):
        counts = {what: sum(one[command] == what for one in found.values()) for what in ("right", "refused", "warned")}
        print(f"{command}: of {len(found)} families {counts}")


if __name__ == "__main__":
    main(sys.argv[1:])
