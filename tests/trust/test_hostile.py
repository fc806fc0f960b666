"""Files that somebody made to do harm: success or a message, within two seconds and 500 MB."""

from __future__ import annotations

import json
import pickletools
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trust.hostile import TARGETS, Target, codes

#: In all: the ordinary run's, and the slow one's.
SOME, MANY = 500, 20_000

SECONDS, MEGABYTES = 2.0, 500

SPECIAL = [
    None, True, False, 0, -1, 1, 2, 7, 1 << 31, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30, -(10**30), 0.0, 1.5, -1.5,
    1e308, float("inf"), float("-inf"), float("nan"), "", "\n  next: run this", "\x1b[2J", "\0", "\ud800", "../../x",
    "/etc/passwd", "a" * 300, "x" * 5000, "q_proj", "(", "(a+)+$", ".*", "all-linear", "F32", "F4", [], {}, [[]], [{}],
    [None], ["q_proj"], [0, 0], [-1], {"a": {}}, {"": ""}, {"quant_method": "x"}, 9**999,
]  # fmt: skip
special = st.sampled_from(SPECIAL) | st.integers() | st.floats() | st.text(max_size=8)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one node, or a few, of something else: another value, another name, one more or one less."""
    for _ in range(draw(st.integers(1, 3))):
        value = _changed_once(draw, value)
    return value


def _changed_once(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 5)) == 0:
        return draw(special)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, what = draw(st.sampled_from(keys)), draw(st.integers(0, 7))
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if what == 0:
        del copy[key]
    elif what == 1 and isinstance(copy, dict):
        copy[draw(st.sampled_from([s for s in SPECIAL if isinstance(s, str)]) | st.text(max_size=5))] = copy.pop(key)
    elif what == 2 and isinstance(copy, list):
        copy.append(draw(special))
    elif what == 3 and len(keys) > 1:
        copy[key] = copy[draw(st.sampled_from(keys))]
    else:
        copy[key] = _changed_once(draw, copy[key])
    return copy


def spliced(data: bytes) -> st.SearchStrategy[bytes]:
    """Bytes cut, doubled, or with others among them."""
    place = st.integers(0, len(data))

    def splice(at: int, until: int, new: bytes) -> bytes:
        return data[:at] + new + data[until:]

    bits = st.builds(
        lambda at, bit: data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :],
        st.integers(0, len(data) - 1),
        st.integers(0, 7),
    )
    return st.builds(splice, place, place, st.binary(max_size=12)) | bits | st.builds(lambda at: data[:at], place)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def of_json(data: bytes) -> st.SearchStrategy[bytes]:
    deep = st.sampled_from([b"[" * 100_000, b'{"a":' * 5000, b"[" * 500 + b"]" * 500])
    return st.one_of(*[changed(json.loads(data)).map(as_json)] * 6, spliced(data), deep)


def of_safetensors(data: bytes) -> st.SearchStrategy[bytes]:
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]

    def whole(value: Any) -> bytes:
        text = as_json(value)
        return len(text).to_bytes(8, "little") + text + rest

    def texts(value: dict[str, Any]) -> dict[str, Any]:
        """Metadata are texts, some with JSON in them: that is changed too."""
        said = value.get("__metadata__")
        if isinstance(said, dict):
            value = {
                **value,
                "__metadata__": {k: v if isinstance(v, str) else as_json(v).decode() for k, v in said.items()},
            }
        return value

    opened = dict(header)
    if said := header.get("__metadata__"):
        opened["__metadata__"] = {key: _json_or_text(text) for key, text in said.items()}
        of_metadata = changed(opened["__metadata__"]).map(lambda new: whole(texts({**header, "__metadata__": new})))
        return st.one_of(of_metadata, of_metadata, changed(header).map(whole), spliced(data))
    return st.one_of(changed(header).map(whole), changed(header).map(whole), spliced(data[: 8 + length]), spliced(data))


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def of_pickle(data: bytes) -> st.SearchStrategy[bytes]:
    """Instructions in any order, each with an argument that it could have, put among those of a sound pickle."""
    positions = [position for _, _, position in pickletools.genops(data)]
    argument = st.sampled_from(
        [b"", b"\0", b"\1", b"\xff", bytes(4), b"\xff\xff\xff\x7f", b"\xff" * 8, b"a\n", b"a b\nc\n"]
    )
    code = st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes])
    step = st.builds(lambda c, a: c + a, code, argument)
    steps = st.lists(step, max_size=12).map(b"".join)

    def among(new: bytes, at: int, until: int) -> bytes:
        return data[: positions[at]] + new + data[positions[until] :]

    place = st.integers(0, len(positions) - 1)
    return st.builds(among, steps, place, place) | steps.map(lambda s: b"\x80\x02" + s + b".") | spliced(data)


def of_text(data: bytes) -> st.SearchStrategy[bytes]:
    written = st.text(max_size=50).map(lambda text: text.encode("utf-8", "replace"))
    return spliced(data) | st.binary(max_size=100) | written


KINDS: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {
    "json": of_json,
    "safetensors": of_safetensors,
    "pickle": of_pickle,
    "bytes": spliced,
    "text": of_text,
}


def try_many(target: Target, place: Path, examples: int, *, derandomize: bool) -> None:
    sound = target.sound()
    codes.clear()
    target.run(place, sound)
    assert not any(codes), "what is sound has to get through, or little is tried"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(KINDS[target.kind](sound))
    def one(data: bytes) -> None:
        started = time.process_time()
        target.run(place, data)
        assert time.process_time() - started < SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1000

    one()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_some_hostile_files(name: str, tmp_path: Path) -> None:
    try_many(TARGETS[name], tmp_path, -(-SOME // len(TARGETS)), derandomize=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_many_hostile_files(name: str, tmp_path: Path) -> None:
    try_many(TARGETS[name], tmp_path, -(-MANY // len(TARGETS)), derandomize=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "corpus").glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_files_that_once_did_harm(path: Path, tmp_path: Path) -> None:
    """The corpus: what was found, or is known to hurt others."""
    target = TARGETS[path.parent.name]
    shutil.copy(path, tmp_path / "file")
    target.run(tmp_path, (tmp_path / "file").read_bytes())
