"""Make tinylora_tools/data/default_targets.json: what PEFT targets in each model type when target_modules is left out.

python scripts/make_default_targets.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent.parent / "tinylora_tools" / "data" / "default_targets.json"


def default_targets() -> dict[str, Any]:
    """The installed PEFT's table for TinyLoRA, and its release."""
    import peft
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_TINYLORA_TARGET_MODULES_MAPPING as TABLE

    return {"peft": peft.__version__, "targets": dict(sorted(TABLE.items()))}


if __name__ == "__main__":
    OUTPUT.write_text(json.dumps(default_targets(), indent=1) + "\n")
