"""Several processes on one checkpoint, started by the real torchrun: the same bytes as one, and nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from damage import snapshot
from fixture_data import fixture

from tinylora_tools import merge, pack
from tinylora_tools.cli import main
from tinylora_tools.ranks import Ranks, joined, ranks

ROOT = Path(__file__).parent.parent
CASE = fixture("peft021-no-autocast")  # on a base of three shards
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def started(words: Sequence[str], *options: str, module: bool = True, **settings: str) -> subprocess.Popen[str]:
    """What torchrun starts, alone on this machine if `options` don't say more."""
    of_torchrun = options or ("--standalone", "--nproc-per-node", "2")
    what = ["-m", "tinylora_tools"] if module else [str(ROOT / "tests" / "rank_lines.py")]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", **settings}
    line = [*TORCHRUN, *of_torchrun, *what, *words]
    return subprocess.Popen(
        line,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )


def finished(run: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, said = run.communicate(timeout=120)
    finally:
        run.kill()
    return run.returncode, out, said


def lines(given: dict[str, object], count: int = 2) -> tuple[int, str, str]:
    return finished(started([json.dumps(given)], "--standalone", "--nproc-per-node", str(count), module=False))


def lines_into(directory: Path) -> list[list[str]]:
    base, adapter = str(CASE.base), str(CASE.adapter)
    return [
        ["merge", adapter, "-o", str(directory / "merged"), "--manifest"],
        ["factor", base, "-o", str(directory / "factors.safetensors"), "--target-modules", "all-linear"],
        ["init", base, "-o", str(directory / "adapter"), "--target-modules", "all-linear"],
        ["convert", "packed", adapter, "--base", base, "-o", str(directory / "packed.safetensors")],
        ["verify-base", adapter, "--json"],
    ]


def files(directory: Path) -> dict[str, bytes]:
    """All but what names its own time or place."""
    found = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if "manifest" not in name}


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_bytes_are_those_of_one(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, said = lines({"lines": lines_into(tmp_path / "several")}, count)
    assert code == 0, said
    assert out.count("modules merged") == 1
    verdict = json.loads(out[out.index("{\n") :])
    assert [one["verdict"] for one in verdict["modules"]] == ["same-weights"] * 2
    monkeypatch.chdir(ROOT)
    for line in lines_into(tmp_path / "one"):
        monkeypatch.setattr(sys, "argv", ["tinylora", *line, *([] if "--json" in line else ["-q"])])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
    one, several = files(tmp_path / "one"), files(tmp_path / "several")
    assert one.keys() == several.keys()
    assert [name for name in one if one[name] != several[name]] == []
    assert sorted(path.name for path in (tmp_path / "several").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    run = [started(["merge", "fixtures/nothing", "-o", str(tmp_path / "x")]), started(["inspect", str(CASE.adapter)])]
    (code, out, said), (other_code, _, other) = map(finished, run)
    assert (code, out, said.count("error: fixtures/nothing: no such file or directory")) == (1, "", 1), said
    assert (other_code, other.count("torchrun starts several processes, and this command's work isn't divided.")) == (
        1,
        1,
    )


def check_one_killed(point: int, who: int, tmp_path: Path) -> bool:
    """Kill one of two at a point, and run the same again; whether it came to that point."""
    output, parts = tmp_path / "merged", tmp_path / ".merged.tinylora-partial" / "parts"
    words = ["merge", str(CASE.adapter), "-o", str(output)]
    before = snapshot(CASE.base)
    began = time.monotonic()
    code, out, said = lines({"lines": [words], "die": [point, who]})
    if code == 0:
        return False
    assert time.monotonic() - began < 60
    assert not output.exists()
    assert out.count("Wrote") == 0
    assert said.count("error: ") <= 1, said
    kept = {path.name.removesuffix(".json"): path.with_suffix("").stat().st_ino for path in parts.glob("*.json")}
    code, out, said = finished(started(words))
    assert code == 0, said
    assert {name: (output / name).stat().st_ino for name in kept} == kept
    merge(CASE.adapter, tmp_path / "alone", CASE.base)
    assert files(output) == files(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "merged"]
    assert snapshot(CASE.base) == before
    return True


@pytest.mark.parametrize("who", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_one_that_is_killed_ends_all_and_the_next_run_goes_on(who: int, tmp_path: Path) -> None:
    assert check_one_killed(6, who, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_killed_at_each_of_ten_points(who: int, tmp_path: Path) -> None:
    reached = []
    for point in range(1, 11):
        (tmp_path / str(point)).mkdir()
        reached.append(check_one_killed(point, who, tmp_path / str(point)))
    assert sum(reached) >= 8


def test_an_interrupt_ends_all(tmp_path: Path) -> None:
    run = started(["merge", str(CASE.adapter), "-o", str(tmp_path / "merged")])
    time.sleep(2)
    run.send_signal(signal.SIGINT)
    code, out, _ = finished(run)
    assert code != 0
    assert (out, list(tmp_path.iterdir())) == ("", [])


@pytest.fixture
def hosts() -> Iterator[list[list[str]]]:
    """What runs a command on either of two hosts: network namespaces that a wire joins."""
    ip = shutil.which("ip")
    if os.geteuid() != 0 or ip is None:
        pytest.skip("only the superuser, with iproute2, can make namespaces")
    names = [f"tinylora{number}" for number in (1, 2)]
    steps = [["netns", "add", name] for name in names]
    steps += [["link", "add", "wire1", "netns", names[0], "type", "veth", "peer", "name", "wire2", "netns", names[1]]]
    for number, name in enumerate(names, 1):
        steps += [["-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", f"wire{number}"]]
        steps += [["-n", name, "link", "set", link, "up"] for link in ("lo", f"wire{number}")]
    try:
        for step in steps:
            if subprocess.run([ip, *step], capture_output=True, check=False).returncode:
                pytest.skip("namespaces can't be made here")
        yield [[ip, "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run([ip, "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_hosts(hosts: list[list[str]], tmp_path: Path) -> None:
    runs = []
    for number, inside in enumerate(hosts):
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number), "--master-addr", "10.77.0.1"]
        words = ["-m", "tinylora_tools", "merge", str(CASE.adapter), "-o", str(tmp_path / "merged")]
        runs.append(
            subprocess.Popen(
                [*inside, *TORCHRUN, *options, *words],
                env={**os.environ, "GLOO_SOCKET_IFNAME": f"wire{number + 1}"},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=ROOT,
            )
        )
    ended = [finished(run) for run in runs]
    assert [code for code, _, _ in ended] == [0, 0], ended
    merge(CASE.adapter, tmp_path / "alone", CASE.base)
    assert files(tmp_path / "merged") == files(tmp_path / "alone")


def test_alone_there_is_nothing_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with joined() as together:
        assert (together.number, together.count, together.gathered(3)) == (0, 1, [3])
        assert together.share([5, 1]) == {0, 1}
        together.wait()
    assert ranks().count == 1


def test_several_keep_nothing_in_caches_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that found its factors there would do without what the others wait for it to do."""
    monkeypatch.setenv("TINYLORA_CACHE_DIR", str(tmp_path / "kept"))
    packed = tmp_path / "packed.safetensors"
    pack(CASE.adapter, packed, base=CASE.base)
    (kept,) = (tmp_path / "kept").glob("*.npz")
    with np.load(kept) as held:
        parts = dict(held)
    parts["entries"] = parts["entries"] ^ 1  # which would be noticed, and computed again, by whoever reads it
    np.savez(kept, **parts)
    before = snapshot(tmp_path / "kept")
    words = ["merge", str(packed), "--base", str(CASE.base), "-o", str(tmp_path / "merged")]
    code, _, said = finished(started(words))
    assert code == 0, said
    assert snapshot(tmp_path / "kept") == before
    merge(CASE.adapter, tmp_path / "alone", CASE.base)
    name = "model.safetensors.index.json"
    shards = set(json.loads((CASE.base / name).read_text())["weight_map"].values())
    assert all((tmp_path / "merged" / one).read_bytes() == (tmp_path / "alone" / one).read_bytes() for one in shards)


def test_shares_are_of_bytes() -> None:
    """Each work is somebody's, and whoever has most has no more than the largest work above the others."""
    sizes = [7, 100, 3, 3, 50, 60, 0, 0, 41]
    shares = []
    for number in range(3):
        one = Ranks()
        one.number, one.count = number, 3
        shares.append(one.share(sizes))
    assert sorted(place for share in shares for place in share) == list(range(len(sizes)))
    loads = [sum(sizes[place] for place in share) for share in shares]
    assert max(loads) - min(loads) <= 50
