"""Make tinylora_tools/data/peft_commits.json: the commits of PEFT's development versions that straddle a change.

An adapter that such a version wrote names its commit, if PEFT was installed from one, behind an @ in peft_version.

python scripts/make_peft_commits.py CLONE    # of https://github.com/huggingface/peft
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "tinylora_tools" / "data" / "peft_commits.json"

#: The commit that began each version, and the last one that had it.
_VERSIONS = {
    "0.19.2.dev0": ("a0887f672c5ed7af635519be17eebc641be14afa", "167fcb0f29a8a71a6a18adbb153623531a288df6~1"),
    "0.20.1.dev0": ("ea8ebf36da98d93fdfca020ad17ab746e6994c01", "4ddb88b47baa230cc1378b1d4965f9a7f5e36217"),
}


def commits(clone: str, first: str, last: str) -> list[str]:
    """Twelve digits of each commit from the first to the last one, in their order."""
    command = ["git", "-C", clone, "rev-list", "--reverse", "--abbrev-commit", "--abbrev=12", f"{first}~1..{last}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


if __name__ == "__main__":
    found = {version: commits(sys.argv[1], *ends) for version, ends in _VERSIONS.items()}
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")
