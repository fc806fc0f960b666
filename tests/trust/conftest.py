"""One server, one set of inputs, and what each command makes of them undisturbed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import snapshot
from trust.runs import Server, Ways, content, served, ways_in


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="session")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Ways:
    return ways_in(tmp_path_factory.mktemp("ways"))


class Undisturbed(dict[str, object]):
    """Each command's output when nothing happens, made when it is first asked for."""

    def __init__(self, server: Server, ways: Ways) -> None:
        self._server, self._ways = server, ways

    def __missing__(self, command: str) -> object:
        output = self._ways.output(command)
        place = output.parent.parent / "undisturbed" / output.name
        words = [word.replace(str(output), str(place)) for word in self._ways.arguments(command)]
        ended = self._server.run(words)
        assert ended.code == 0, ended
        found = self[command] = content(place)
        shutil.rmtree(place.parent)
        return found


@pytest.fixture(scope="session")
def undisturbed(server: Server, ways: Ways) -> dict[str, object]:
    return Undisturbed(server, ways)


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
