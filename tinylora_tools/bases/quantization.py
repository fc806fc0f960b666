"""Bases whose weights aren't plain numbers: refused by name."""

from __future__ import annotations

from ..errors import UnsupportedError
from ..formats.checkpoint import Checkpoint
from ..formats.tensors import FLOAT_NAMES


def refuse_quantized(base: Checkpoint) -> None:
    """Raise UnsupportedError, with the method's name, for a checkpoint whose weights aren't plain numbers."""
    settings = (base.config or {}).get("quantization_config")
    if isinstance(settings, dict):
        method = settings.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in settings else "unknown method")
        raise UnsupportedError(
            f"the base is quantized ({method})",
            where=base.path,
            hint="Use the unquantized model that it was made from; quantize what comes of it.",
        )


def refuse_packed(base: Checkpoint, key: str) -> None:
    """Raise UnsupportedError for a target tensor that isn't stored in a plain floating-point dtype."""
    info = base.info(key)
    if info.dtype not in FLOAT_NAMES:
        raise UnsupportedError(
            f"{key} is stored as {info.dtype}: the base is quantized",
            where=base.path,
            hint="Use the unquantized model that it was made from; quantize what comes of it.",
        )
