"""What `torch.save` pickles, read without running anything.

A pickle is a program for a stack machine. Only the instructions that build dicts, lists, tuples, texts and numbers are
followed, and of functions only those that say where a tensor lies; nothing is imported and nothing is called. (Python's
own pickle module, for the instructions and how each is encoded: Lib/pickletools.py; the functions: torch/_utils.py.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

#: Of instructions; a state dict takes about 40 a tensor.
MOST_INSTRUCTIONS = 20_000_000


class PickleError(Exception):
    """Why a pickle can't be read."""


class Global(NamedTuple):
    """A class or a function that a pickle names; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor as a pickle describes it: of a storage (whatever `storage` gave), from an offset on, in elements.

    `dtype` is torch's name, where the tensor says its own."""

    storage: Any
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING",
    "SHORT_BINSTRING",
}  # fmt: skip
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Machine:
    """The stack, and what was put aside by number."""

    def __init__(self, storage: Callable[[tuple[Any, ...]], object], tensor: Callable[[View], object]) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storage, self._tensor = storage, tensor

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self._top()
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self._pop(2) if name == "SETITEM" else self._since_mark()
            self._fill(pairs)
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._since_mark()
            self._expect(list).extend(items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            named = argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)
            stack.append(Global(*(_text(part) for part in named)))
        elif name == "BINPERSID":
            (which,) = self._pop(1)
            if type(which) is not tuple:
                raise PickleError("names a storage in an unknown way")
            stack.append(self._storage(which))
        elif name == "REDUCE":
            function, given = self._pop(2)
            made = _call(function, given)
            stack.append(self._tensor(made) if isinstance(made, View) else made)
        elif name == "BUILD":
            self._pop(1)  # attributes, such as the _metadata of a state dict
            self._expect(dict)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickleError(f"would have to be run: {name}")

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("takes from an empty stack")
        return self.stack[-1]

    def _expect(self, kind: type) -> Any:
        if type(self._top()) is not kind:
            raise PickleError(f"fills a {type(self._top()).__name__} as if it were a {kind.__name__}")
        return self._top()

    def _pop(self, count: int) -> list[Any]:
        found = self.stack[-count:]
        if len(found) < count or _MARK in found:
            raise PickleError("takes from an empty stack")
        del self.stack[-count:]
        return found

    def _since_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        raise PickleError("takes from an empty stack")

    def _fill(self, pairs: list[Any]) -> None:
        target = self._expect(dict)
        if len(pairs) % 2 or not all(type(key) in (str, int) for key in pairs[::2]):
            raise PickleError("has a dict with keys that are neither texts nor numbers")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))


def unpickle(file: BinaryIO, storage: Callable[[tuple[Any, ...]], object], tensor: Callable[[View], object]) -> Any:
    """What a pickle builds; the file is left behind it.

    Parameters
    ----------
    file : binary file
    storage : callable
        Told how the pickle names a storage, gives what `View.storage` becomes.
    tensor : callable
        Gives what a tensor becomes.

    Raises
    ------
    PickleError
        For anything that isn't as `torch.save` writes it, or would have to be run.
    """
    import pickletools  # which few files need

    machine = _Machine(storage, tensor)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
            if count > MOST_INSTRUCTIONS:
                raise PickleError(f"takes more than {MOST_INSTRUCTIONS:,} steps")
            machine.step(instruction.name, argument)
    except (ValueError, KeyError, IndexError, UnicodeError, OverflowError) as error:
        raise PickleError(f"damaged: {error}") from None
    if len(machine.stack) != 1 or machine.stack[0] is _MARK:
        raise PickleError("damaged: it builds nothing, or several things")
    return machine.stack[0]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PickleError("names a class by something else than text")
    return value


def _call(function: object, given: object) -> object:
    """What one of the functions gives that describe tensors."""
    if not isinstance(function, Global) or type(given) is not tuple:
        raise PickleError("calls something that is no function")
    name = str(function)
    if name == "collections.OrderedDict" and not given:
        return {}
    if name == "torch.Size" and len(given) == 1 and _are_counts(given[0]):
        return given[0]
    if name == "torch.device" and len(given) in (1, 2):
        return _text(given[0])
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state") and given:
        return given[0]
    if name == "torch._utils._rebuild_tensor_v2" and len(given) in (6, 7):
        return _view(given[:4], None, given[6:])
    if name == "torch._utils._rebuild_tensor_v3" and len(given) in (7, 8):
        return _view(given[:4], given[6], given[7:])
    raise PickleError(f"would have to run {name}")


def _view(place: tuple[Any, ...], dtype: object, metadata: tuple[Any, ...]) -> View:
    storage, offset, shape, strides = place
    if not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides) or not _are_counts((offset,)):
        raise PickleError("has a tensor whose shape, strides or place isn't one")
    flags = metadata[0] if metadata else None
    if flags:
        marks = ", ".join(flags) if type(flags) is dict and all(type(key) is str for key in flags) else "unknown marks"
        raise PickleError(f"has a tensor that is to be changed as it is read ({marks}): save it resolved")
    if dtype is not None and not (isinstance(dtype, Global) and dtype.module == "torch"):
        raise PickleError("has a tensor whose dtype isn't one")
    return View(storage, offset, shape, strides, None if dtype is None else dtype.name)


def _are_counts(values: object) -> bool:
    return type(values) is tuple and len(values) <= 64 and all(type(n) is int and 0 <= n < 1 << 63 for n in values)
