"""Factors of several adapters' updates."""

from __future__ import annotations

import numpy as np
import pytest

from tinylora_tools.errors import MismatchError
from tinylora_tools.ops.scales import one_each


@pytest.mark.parametrize(
    ("given", "adapters", "meant"),
    [
        (2, 3, (2.0, 2.0, 2.0)),
        (-0.5, 1, (-0.5,)),
        ([3], 2, (3.0, 3.0)),
        (np.float32(0.5), 2, (0.5, 0.5)),
        ((1.0, 0.5), 2, (1.0, 0.5)),
        (range(3), 3, (0.0, 1.0, 2.0)),
    ],
    ids=str,
)
def test_one_for_all_or_one_for_each(given: object, adapters: int, meant: tuple[float, ...]) -> None:
    found = one_each(given, adapters)  # type: ignore[arg-type]
    assert found == meant
    assert {type(scale) for scale in found} == {float}


@pytest.mark.parametrize(("scales", "adapters"), [((1.0, 2.0), 3), ((1.0, 2.0), 1), ((), 2)], ids=str)
def test_as_many_as_neither_are_refused(scales: tuple[float, ...], adapters: int) -> None:
    with pytest.raises(MismatchError, match=f"{len(scales)} scales for {adapters} adapters") as caught:
        one_each(scales, adapters)
    assert caught.value.hint == "Give scale once, or for each."
