"""Pickles are followed where they describe tensors, and never run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import pytest

from tinylora_tools.formats.pickled.machine import PickleError, View, unpickle


def read(data: bytes) -> Any:
    return unpickle(io.BytesIO(data), lambda which: ("storage", *which), lambda view: view)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": [1.5, None, True, False], "c": ("x", (1, 2, 3), ()), "d": {}, "long": 1 << 100, "é": -5},
        OrderedDict(a=1, b=OrderedDict()),
        [[], {}, "x" * 300, 70_000],
        {"twice": [same := [1], same]},
    ],
    ids=["kinds", "ordered", "lists", "shared"],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_values_come_back(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_the_file_is_left_behind_the_pickle() -> None:
    file = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps("two", 2) + b"rest")
    assert [unpickle(file, id, id) for _ in range(2)] == [1, "two"]
    assert file.read() == b"rest"


class Call:
    """Pickled as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


class Instance:
    """Pickled as an object with attributes."""

    def __init__(self) -> None:
        self.a = 1


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (Call(os.system, "true"), r"would have to run posix\.system"),
        (Call(eval, "1"), r"would have to run (builtins|__builtin__)\.eval"),
        (Call(OrderedDict, [("a", 1)]), r"would have to run collections\.OrderedDict"),
        (Instance(), "would have to"),
        ({1, 2}, "would have to"),
        (b"bytes", "would have to"),
        ({(1, 2): 3}, "keys that are neither texts nor numbers"),
        ({None: 3}, "keys that are neither texts nor numbers"),
    ],
    ids=["system", "eval", "pairs", "instance", "set", "bytes", "tuple as a key", "none as a key"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_would_have_to_be_run_is_refused(value: Any, what: str, protocol: int) -> None:
    with pytest.raises(PickleError, match=what):
        read(pickle.dumps(value, protocol))


def test_a_class_is_named_and_not_looked_up() -> None:
    found = read(b"\x80\x02cno.such.module\nThing\n.")
    assert (str(found), found.module) == ("no.such.module.Thing", "no.such.module")


def code_of(name: str) -> bytes:
    return next(op.code for op in pickletools.opcodes if op.name == name).encode("latin-1")


#: Instructions with arguments that go with them, so that each is met as what it is.
ARGUMENTS = {
    "INT": b"1\n", "LONG": b"1L\n", "FLOAT": b"1\n", "STRING": b"'a'\n", "UNICODE": b"a\n", "PERSID": b"a\n",
    "GET": b"0\n", "PUT": b"0\n", "GLOBAL": b"a\nb\n", "INST": b"a\nb\n", "BININT": b"\1\0\0\0", "BININT1": b"\1",
    "BININT2": b"\1\0", "LONG1": b"\1\1", "LONG4": b"\1\0\0\0\1", "BINFLOAT": bytes(8), "PROTO": b"\2",
    "FRAME": bytes(8), "BINGET": b"\0", "BINPUT": b"\0", "LONG_BINGET": bytes(4), "LONG_BINPUT": bytes(4),
    "EXT1": b"\1", "EXT2": b"\1\0", "EXT4": b"\1\0\0\0",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(op.name for op in pickletools.opcodes))
@pytest.mark.parametrize("before", [b"", b"(", b"}", b"]", b"K\1", b"K\1K\2", b"}K\1K\2", b"(K\1K\2", b"](K\1"])
def test_every_instruction_in_every_place_is_followed_or_refused(name: str, before: bytes) -> None:
    argument = ARGUMENTS.get(name, bytes(8) if name.endswith("8") else bytes(4) if name.startswith("BIN") else b"\0")
    try:
        read(before + code_of(name) + argument + b".")
    except PickleError:
        pass
    else:
        assert name not in {
            "REDUCE",
            "BUILD",
            "INST",
            "OBJ",
            "NEWOBJ",
            "NEWOBJ_EX",
            "EXT1",
            "EXT2",
            "EXT4",
            "BINPERSID",
        }


def test_tuples_of_tuples_cost_nothing() -> None:
    """A tuple that holds another twice, and so on: 200 bytes that take 2^60 steps to hash, print or compare."""
    bomb = b")q\0" + b"h\0h\0\x86q\0" * 60
    assert len(read(b"\x80\x02(" + bomb + b"t.")) == 61
    with pytest.raises(PickleError, match="keys that are neither"):
        read(b"\x80\x02" + bomb + b"}h\0K\1s.")


def test_a_number_for_what_is_put_aside_takes_no_memory() -> None:
    assert read(b"\x80\x02K\1r\xff\xff\xff\x7f.") == 1


def test_an_endless_pickle_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinylora_tools.formats.pickled.machine.MOST_INSTRUCTIONS", 10)
    with pytest.raises(PickleError, match="takes more than 10 steps"):
        read(b"]" * 100 + b".")


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagetQ"


@pytest.mark.parametrize(
    ("rest", "what"),
    [
        (b"K\0K\2K\3\x86K\3K\1\x86\x89NtR.", None),
        (b"K\0K\2K\3\x86K\3\x85\x89NtR.", "shape, strides or place isn't one"),
        (b"J\xff\xff\xff\xffK\2K\3\x86K\3K\1\x86\x89NtR.", "shape, strides or place isn't one"),
        (b"K\0K\2K\3\x86J\xff\xff\xff\xffK\1\x86\x89NtR.", "shape, strides or place isn't one"),
        (b"K\0K\2K\3\x86K\3K\1\x86\x89N}X\4\0\0\0conj\x88stR.", r"changed as it is read \(conj\)"),
        (b"K\0K\2K\3\x86K\3K\1\x86\x89N}X\3\0\0\0neg\x88stR.", r"changed as it is read \(neg\)"),
        (b"K\0K\2K\3\x86K\3K\1\x86\x89N}tR.", None),
        (b"K\0tR.", r"would have to run torch\._utils\._rebuild_tensor_v2"),
    ],
)
def test_tensors_are_described(rest: bytes, what: str | None) -> None:
    if what is None:
        view = read(TENSOR + rest)
        assert isinstance(view, View)
        assert (view.storage, view.offset, view.shape, view.strides) == (("storage", "storage"), 0, (2, 3), (3, 1))
    else:
        with pytest.raises(PickleError, match=what):
            read(TENSOR + rest)
