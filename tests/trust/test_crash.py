"""A run that is killed leaves whole outputs or none, its inputs as they were, and nothing that the next run minds."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from trust.runs import COMMANDS, KILL, NOTHING, WRITES, Server, Ways, content, in_turn, names

#: Kills of each command, evenly over its calls that write; the slow test has as many as there are, up to this.
FEW, MANY = 3, 60


def prepare(ways: Ways, command: str, *, force: bool) -> tuple[list[str], object]:
    """The command's words, and what its output held before."""
    ways.clear()
    output = ways.output(command)
    if not force:
        return ways.arguments(command), None
    if output.suffix:
        output.write_text("old")
    else:
        (output / "sub").mkdir(parents=True)
        for name in ("config.json", "old.safetensors", "sub/old.txt"):
            (output / name).write_text(f"the old {name}")
    return [*ways.arguments(command), "--force"], content(output)


def check_next_run(server: Server, ways: Ways, command: str, old: object, whole: object, after: str) -> None:
    """What is there after a kill, and that the next run makes of it what it would have made of nothing."""
    output = ways.output(command)
    assert content(output) in (old, whole), after
    arguments = ways.arguments(command) + (["--force"] if output.exists() else [])
    ended = server.run(arguments)
    assert ended.code == 0, (after, ended)
    assert content(output) == whole, after
    assert names(output.parent) == [output.name], after


def kill_at_calls(server: Server, ways: Ways, command: str, whole: object, *, force: bool, most: int) -> None:
    arguments, _ = prepare(ways, command, force=force)
    outputs = ways.places["OUT"].parent
    count = server.run(arguments, under=outputs, calls=WRITES, action=NOTHING).count
    points = (
        sorted({1 + round(n * (count - 1) / (most - 1)) for n in range(most)}) if count > most else range(1, count + 1)
    )
    for at in points:
        arguments, old = prepare(ways, command, force=force)
        ended = server.run(arguments, under=outputs, calls=WRITES, action=KILL, at=at)
        reached = ended.count >= at  # how often a merge flushes in the background is up to its threads
        assert ended.code == (-signal.SIGKILL if reached else 0), (at, count, ended)
        check_next_run(server, ways, command, old, whole, f"killed at call {at} of {count}")


@pytest.mark.parametrize("command, force", in_turn(COMMANDS))
def test_a_kill_at_some_calls(
    command: str, force: bool, server: Server, ways: Ways, undisturbed: dict[str, object]
) -> None:
    kill_at_calls(server, ways, command, undisturbed[command], force=force, most=FEW)


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_at_every_call(
    command: str, force: bool, server: Server, ways: Ways, undisturbed: dict[str, object]
) -> None:
    """At every one, or at 60; those of the smallest outputs are fewer than 40 in all."""
    kill_at_calls(server, ways, command, undisturbed[command], force=force, most=MANY)


@pytest.mark.parametrize("command", ["merge", "project"])
def test_a_kill_where_names_cannot_change_places(
    command: str, server: Server, ways: Ways, undisturbed: dict[str, object]
) -> None:
    """Between two renames nothing has the name. The next run, whatever it is told, puts the old output back first."""
    outputs, output, lost = ways.places["OUT"].parent, ways.output(command), 0
    arguments, _ = prepare(ways, command, force=True)
    how = {"under": outputs, "calls": ["rename"], "exchange": False}
    for at in range(1, 1 + server.run(arguments, **how).count):
        arguments, old = prepare(ways, command, force=True)
        assert server.run(arguments, action=KILL, at=at, **how).code == -signal.SIGKILL
        lost += not output.exists()
        unasked = server.run(ways.arguments(command))
        assert (unasked.code, "exists already" in unasked.err) == (1, True), unasked
        assert content(output) == old
        check_next_run(server, ways, command, old, undisturbed[command], f"killed at rename {at}")
    assert lost


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_after_any_time(command: str, server: Server, ways: Ways, undisturbed: dict[str, object]) -> None:
    for n in range(40):
        force = bool(n % 2)
        arguments, old = prepare(ways, command, force=force)
        server.run(arguments, after=0.002 * (n + 1) ** 1.5)
        check_next_run(server, ways, command, old, undisturbed[command], f"killed after {n}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["merge", "init", "factor", "convert packed", "project of a seed"])
def test_a_request_to_end_leaves_nothing(
    command: str, number: signal.Signals, server: Server, ways: Ways, undisturbed: dict[str, object]
) -> None:
    """But what a long work keeps on purpose."""
    ask_to_end(server, ways, command, undisturbed[command], number, 0.15, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_request_to_end_at_any_time(command: str, server: Server, ways: Ways, undisturbed: dict[str, object]) -> None:
    """Wherever Python is then: with a lock that it has just taken, too. While it clears up already, it may leave the
    workshop, empty, for the next run."""
    for n in range(120):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[n % 3]
        ask_to_end(server, ways, command, undisturbed[command], number, 0.002 * (1 + n // 3) ** 1.3, strict=False)


def ask_to_end(
    server: Server, ways: Ways, command: str, whole: object, number: signal.Signals, after: float, *, strict: bool
) -> None:
    arguments, _ = prepare(ways, command, force=False)
    output = ways.output(command)
    ended = server.run(arguments, after=after, signal=number)
    assert ended.code in (0, 128 + number, -number), ended
    left, workshop = names(output.parent), output.with_name(f".{output.name}.tinylora-partial")
    if not strict and workshop.name in left:
        assert {*names(workshop)} <= {"lock", "parts"}
        left.remove(workshop.name)
    if ended.code == 0:
        assert content(output) == whole
    else:
        kept = [workshop.name] if command == "factor" else []
        done = content(output) == whole  # the request came while it was reported
        assert left in ([], kept, [output.name] if done else []), left
    check_next_run(server, ways, command, None, whole, f"{number.name} after {after}")


def test_the_faults_are_met(server: Server, ways: Ways) -> None:
    """Files are written by calls that are counted, else nothing above is tried."""
    arguments, _ = prepare(ways, "merge", force=False)
    outputs: Path = ways.places["OUT"].parent
    counts = {call: server.run([*arguments, "--force"], under=outputs, calls=[call]).count for call in WRITES}
    for call in (
        "write",
        "pwrite64",
        "posix_fallocate64",
        "fsync",
        "fdatasync",
        "renameat2",
        "mkdir",
        "unlinkat",
        "open64",
    ):
        assert counts[call] > 0, counts
    assert counts["copy_file_range"] + counts["sendfile64"] > 0
