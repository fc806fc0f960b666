"""What each verification consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. `identical`, `max_ulp` and `max_abs` say how it went bit by bit, `ok` whether that is as it
    should be, `note` what it means and `hint` what to do where it isn't ok; `digest` is the sha256 of what was drawn
    here."""

    name: str
    device: str
    stream: str | None
    ok: bool
    identical: bool | None
    max_ulp: int | None
    max_abs: float | None
    note: str = ""
    digest: str | None = None
    hint: str | None = None
