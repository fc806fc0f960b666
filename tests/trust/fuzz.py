"""Search for files that do harm, led by which code they reach; runs until it is stopped, or finds one.

    pip install atheris
    python tests/trust/fuzz.py TARGET [options of libFuzzer, such as -max_total_time=600]

What is found goes into `corpus/TARGET`, whose files `test_hostile.py` tries each time. Atheris is no dependency of the
tests: it exists for some systems and releases of Python only.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

import atheris  # type: ignore[import-not-found]  # noqa: E402

with atheris.instrument_imports(include=["tinylora_tools"]):
    from trust.hostile import TARGETS


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz.py TARGET [options]; TARGET is one of {', '.join(TARGETS)}")
    name = sys.argv.pop(1)
    target, corpus = TARGETS[name], HERE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as seeds:
        (Path(seeds) / "sound").write_bytes(target.sound())
        limits = ["-timeout=10", "-rss_limit_mb=4000", f"-artifact_prefix={corpus}/"]
        # What is reached anew goes into the first directory, a temporary one: the corpus holds what matters.
        options = [sys.argv[0], *limits, *sys.argv[1:], seeds, str(corpus)]
        atheris.Setup(options, lambda data: target.run(Path(directory), data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
