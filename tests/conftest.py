"""Fixtures that many tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Header = dict[str, Any]


@pytest.fixture
def write_raw(tmp_path: Path) -> Callable[..., Path]:
    """Write a safetensors file from a header as it is given, true or not, and bytes of data."""

    def write(
        header: Header | bytes, data: bytes = b"", *, length: int | None = None, name: str = "x.safetensors"
    ) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
        return path

    return write
