"""Several runs with one output: each that succeeds has left it whole, or lost it to a later one that is whole."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from trust.runs import COMMANDS, DELAY, Server, Ways, content, names

DIRECTORIES = [
    command for command in COMMANDS if COMMANDS[command][-1] != "--target-modules" and "OUT" in COMMANDS[command]
]
FILES = [command for command in COMMANDS if command not in (*DIRECTORIES, "convert gguf")]
ENDING_AS_THEY_LIKE = [command for command in FILES if COMMANDS[command][-1] == "OUT.json"]

#: By the name that all write: a few commands insist on its ending.
KINDS = {"out": DIRECTORIES, "out.safetensors": FILES, "out.gguf": ["convert gguf", *ENDING_AS_THEY_LIKE]}


def words(ways: Ways, command: str, name: str, *, force: bool) -> list[str]:
    """A command's words, all writing what is called so."""
    one_name = [word.replace("out.json", name) for word in ways.arguments(command)]
    return [*one_name, *(["--force"] if force else [])]


def race(
    server: Server,
    ways: Ways,
    name: str,
    commands: tuple[str, ...],
    undisturbed: dict[str, object],
    seed: int,
    *,
    force: bool,
) -> int:
    """Run commands at the same time, each of their calls late by chance; returns how many succeeded."""
    ways.clear()
    outputs: Path = ways.places["OUT"].parent
    output = outputs / name
    runs = [words(ways, command, name, force=force) for command in commands]
    ended = server.together(runs, under=outputs, action=DELAY, seed=seed)
    won = [command for command, run in zip(commands, ended, strict=True) if run.code == 0]
    for run in ended:
        assert run.code in (0, 1), ended
        assert "Traceback" not in run.err, ended
        if run.code:
            assert "another run is writing" in run.err or "exists already" in run.err or "holds" in run.err, ended
    assert won, ended
    assert content(output) in [undisturbed[command] for command in won], (commands, ended)
    assert names(outputs) == [output.name], ended
    return len(won)


@pytest.mark.parametrize("force", [pytest.param(False, marks=pytest.mark.slow), True], ids=["new", "replaced"])
def test_some_pairs_and_triples(force: bool, server: Server, ways: Ways, undisturbed: dict[str, object]) -> None:
    chosen = random.Random(7)
    for name, kind in KINDS.items():
        for count in (2, 3, 3):
            commands = tuple(chosen.choices(kind, k=count))
            won = race(server, ways, name, commands, undisturbed, chosen.randrange(1 << 30), force=force)
            assert force or won == 1


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [2, 3])
def test_all_pairs_and_triples(
    name: str, count: int, force: bool, server: Server, ways: Ways, undisturbed: dict[str, object]
) -> None:
    for seed, commands in enumerate(itertools.combinations_with_replacement(KINDS[name], count)):
        won = race(server, ways, name, commands, undisturbed, seed, force=force)
        assert force or won == 1 or commands.count("factor") > 0
