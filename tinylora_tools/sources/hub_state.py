"""How this machine stands with the Hub, without asking it anything."""

from __future__ import annotations

from pathlib import Path


def hub_state() -> str:
    """Whether there is a token, and whether the Hub may be asked. The token itself is nobody's business."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return "huggingface_hub isn't installed"
    login = "logged in" if get_token() else "not logged in"
    return f"{login}, offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else login


def cache_directory() -> Path | None:
    """Where downloads are kept; None where huggingface_hub isn't installed."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE)
