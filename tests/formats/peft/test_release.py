"""What each release of PEFT does otherwise, by its version and its commit."""

from __future__ import annotations

import pytest

from tinylora_tools.formats.peft.release import numbers_by_first, saves_biases, seeding

FIX = "76c37d4686cf7245a9a6998fd1e2619d62c9322d"  # peft#3180
BEFORE = "a0887f672c5ed7af635519be17eebc641be14afa"  # which began 0.19.2.dev0
GROUPS = "aee16509f9a43407d1af0fcf62f145e405eb21fb"  # peft#3422
BIASES = "4ddb88b47baa230cc1378b1d4965f9a7f5e36217"  # peft#3490
NEXT = "ea8ebf36da98d93fdfca020ad17ab746e6994c01"  # which began 0.20.1.dev0


@pytest.mark.parametrize(
    ("version", "seeds", "by_first", "biases"),
    [
        ("0.18.2.dev0", "salted", True, False),
        (f"0.18.2.dev0@{BEFORE}", "salted", True, False),
        ("0.19", "salted", True, False),
        ("0.19.0", "salted", True, False),
        ("0.19.1", "salted", True, False),
        ("0.19.1.dev0@UNKNOWN", "salted", True, False),
        ("0.19.2.dev0", None, None, False),
        ("0.19.2.dev0@UNKNOWN", None, None, False),
        ("0.19.2.dev0@5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e", None, None, False),
        (f"0.19.2.dev0@{BEFORE}", "salted", True, False),
        (f"0.19.2.dev0@{FIX}", "index", True, False),
        (f"0.19.2.dev0@{FIX[:8]}", "index", True, False),
        (f"0.19.2.dev0@{GROUPS}", "index", False, False),
        ("0.20.0", "index", False, False),
        ("0.20.1.dev0", "index", False, None),
        (f"0.20.1.dev0@{NEXT}", "index", False, False),
        (f"0.20.1.dev0@{BIASES}", "index", False, True),
        ("0.21.0", "index", False, True),
        ("0.21.2", "index", False, True),
        ("0.190.0", "index", False, True),
        ("1.0.19", "index", False, True),
        ("somebody's", None, None, None),
    ],
)
def test_each_release(version: str, seeds: str | None, by_first: bool | None, biases: bool | None) -> None:
    assert (seeding(version), numbers_by_first(version), saves_biases(version)) == (seeds, by_first, biases)
