"""What messages say of what isn't known."""

from __future__ import annotations

from tinylora_tools.bases.architectures.hints import order_hint, way_out
from tinylora_tools.cli.shell.wording import OptionWords
from tinylora_tools.wording import worded_by


def test_the_way_out_is_one_that_the_reader_can_take() -> None:
    assert "tinylora_tools.architecture(BASE, FILE)" in way_out()
    assert "tinylora_tools.described_by(FILE)" in way_out()
    with worded_by(OptionWords()):
        assert "tinylora architecture BASE -o FILE" in way_out()
        assert "use --architecture FILE." in way_out()
        assert "--module-order FILE" in order_hint()
        assert order_hint().startswith(way_out())
