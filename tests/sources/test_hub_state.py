"""The Hub's login and cache."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from tinylora_tools.sources.hub_state import cache_directory, hub_state


def test_login_and_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert hub_state() == "not logged in"
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    assert hub_state() == "logged in"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub_state() == "logged in, offline (HF_HUB_OFFLINE)"
    assert cache_directory() == Path(huggingface_hub.constants.HF_HUB_CACHE)
