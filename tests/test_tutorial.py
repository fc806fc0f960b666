"""The tutorial's commands do what it shows, one after the other."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import counting
import pytest
import serve

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"


def shown() -> list[tuple[str, str]]:
    """Each command, with what is shown of its output."""
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
    runs = [run for block in blocks for run in re.split(r"^\$ ", block, flags=re.M) if run]
    return [(command, output) for command, _, output in (run.partition("\n") for run in runs)]


def without_figures(text: str) -> list[str]:
    """The lines, with numbers, their units and bars told apart from nothing else: machines train differently."""
    text = re.sub(r"\d[\d.,]*(e[+-]\d+)?( k?B\b| bytes\b)?", "#", re.sub("━+", "━", text))
    return [" ".join(line.split()) for line in text.splitlines()]


def assert_shows(expected: str, printed: str) -> None:
    """What stands between ellipses is in what was printed, in its order."""
    lines = without_figures(printed)
    pieces = [without_figures(piece) for piece in expected.split("  ...\n")]
    assert lines[: len(pieces[0])] == pieces[0]
    for number, piece in enumerate(pieces):
        found = next((i for i in range(len(lines) + 1) if lines[i : i + len(piece)] == piece), None)
        assert found is not None, (piece, lines)
        lines = lines[found + len(piece) :]
        assert number < len(pieces) - 1 or not piece or lines == []


@pytest.fixture
def model_server() -> Iterator[Callable[[str], str]]:
    """What serve.py does in a process of its own, at a port that is free; returns its address."""
    running: list[Any] = []

    def start(model: str) -> str:
        server = serve.server_of(*counting.open_base(Path(model)), port=0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.extend([server, thread])
        return f"127.0.0.1:{server.server_port}"

    yield start
    if running:
        running[0].shutdown()
        running[1].join()
        running[0].server_close()


@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_does_what_it_shows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tinylora: Callable[..., Any],
    model_server: Callable[[str], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    address, outputs = "", {}
    for command, expected in shown():
        words = shlex.split(command)
        if words[0] == "tinylora":
            result = tinylora(*words[1:])
            assert result.code == 0, (command, result)
            printed = result.out
        elif words[:2] == ["python", "examples/serve.py"]:
            address = model_server(words[2])
            assert f"serving {words[2]} at http://" in expected
            continue
        elif words[0] == "curl":
            url, data = words[2].replace("127.0.0.1:8000", address), words[words.index("-d") + 1]
            with urllib.request.urlopen(url, data.encode(), timeout=60) as response:  # noqa: S310
                printed = response.read().decode()
            assert printed == expected
            assert json.loads(printed)["choices"][0]["text"] == counting.counted("4", counting.TAUGHT)
        else:
            assert words[0] == "python"
            importlib.import_module(Path(words[1]).stem).main(words[2:])
            printed = capsys.readouterr().out
        assert_shows(expected, printed)
        outputs[words[1]] = printed
    before, after = (
        int(re.findall(rf"{when}: (\d+)%", outputs["examples/reinforcement.py"])[0]) for when in ("before", "after")
    )
    assert before < 45
    assert after > 60
    assert address


def test_the_check_can_fail() -> None:
    assert_shows("a 1\n  ...\nb 2\n", "a 9\nx\nb 3\n")
    for printed in ("c 9\nx\nb 3\n", "a 9\nx\nc 3\n", "a 9\nx\nb 3\nmore\n", "a 9\n"):
        with pytest.raises(AssertionError):
            assert_shows("a 1\n  ...\nb 2\n", printed)
