"""One server, one set of inputs, and what each command makes of them undisturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import snapshot
from trust.runs import COMMANDS, Server, Ways, content, served, ways_in


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="session")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Ways:
    return ways_in(tmp_path_factory.mktemp("ways"))


@pytest.fixture(scope="session")
def undisturbed(server: Server, ways: Ways) -> dict[str, object]:
    """Each command's output, when nothing happens."""
    found = {}
    for command in COMMANDS:
        ways.clear()
        ended = server.run(ways.arguments(command))
        assert ended.code == 0, ended
        found[command] = content(ways.output(command))
    ways.clear()
    return found


@pytest.fixture(autouse=True)
def inputs_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever happens, inputs are never written to."""
    if "ways" not in request.fixturenames:
        yield
        return
    found: Ways = request.getfixturevalue("ways")
    top: Path = found.top / "in"
    before = snapshot(top)
    yield
    assert snapshot(top) == before
