"""PEFT's TinyLoRA without its full decompositions: made from the leading triplets alone, loaded without any.

PEFT decomposes the weight of each target in full when an adapter is made, keeps r triplets, and does the same when one
is loaded, only to replace them by what the file holds. Within `fast_peft` its layers leave room for A and B instead,
filled with NaN:

- where an adapter is made, all rooms are filled at the end of PEFT's `inject_adapter`, from the r leading triplets,
  rounded as PEFT rounds them;
- where one is loaded, the file fills them. What it lacks is decomposed by PEFT's own method, since its signs are part
  of what was trained.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..bases.weights import each_of
from ..core.svd.triplets import made_as_peft, top_triplets
from ..errors import FormatError, UnsupportedError
from .patches import Patches, Replacement

#: The releases whose methods these are.
RELEASES = ("0.20", "0.21")

#: Weights of other dtypes, and quantized ones, are left to PEFT.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@contextmanager
def fast_peft() -> Iterator[None]:
    """Within this context PEFT makes and loads TinyLoRA adapters without decomposing weights in full.

    >>> with fast_peft():  # doctest: +SKIP
    ...     model = get_peft_model(base, TinyLoraConfig(r=2, u=13))

    So do `PeftModel.from_pretrained`, `load_adapter` and `add_adapter`. The model is PEFT's, and all that is done with
    it afterwards. A and B of a new adapter equal PEFT's up to rounding and the signs of pairs, which an SVD library
    chooses as it likes; P, v and whatever comes from a file are the same bit for bit.

    Only the thread that entered the context is served, or the asyncio task with those that it starts: PEFT works in
    others as it does without, also at the same time. Contexts may be nested, and entered by several threads.

    Raises
    ------
    UnsupportedError
        If PEFT isn't installed, or is a release that this wasn't tested with.
    FormatError
        Within the context, if a weight has NaN or infinite entries.
    """
    _check_release(_peft())
    _PATCHES.enter()
    token = _INSIDE.set(True)
    try:
        yield
    finally:
        _PATCHES.leave()
        _INSIDE.reset(token)


def _peft() -> ModuleType:
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise UnsupportedError(
            "fast_peft works on PEFT, which isn't installed", hint="Install it: pip install 'tinylora-tools[peft]'."
        ) from None
    return peft


def _check_release(peft: ModuleType) -> None:
    found = re.match(r"\d+\.\d+", peft.__version__)
    if found is None or found[0] not in RELEASES:
        raise UnsupportedError(
            f"fast_peft was tested with PEFT {' and '.join(RELEASES)}, this is PEFT {peft.__version__}",
            hint=f"Install one of those: pip install 'peft=={RELEASES[-1]}.*'. Or leave fast_peft out: PEFT does the "
            "same in more time. `tinylora init` makes adapters without PEFT.",
        )


#: The residual, over s_1, past which PEFT decomposes a weight itself: for products of float32 that are made of shorter
#: numbers, as where TF32 is allowed. PEFT's own are of some 1e-6.
_ACCURATE = 1e-5

#: Where PEFT's layers hold A and B.
_PARTS = ("tinylora_A", "tinylora_B")

#: Whether this thread, or task, is in the context.
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)


@dataclass(frozen=True, slots=True)
class _Room:
    """Room for A and B of an adapter in one of PEFT's layers, whose weight is W (out, in)."""

    layer: Any
    adapter: str
    W: Tensor
    r: int
    let_peft: Callable[[], None]  # decompose in full

    def build(self) -> None:
        """Room that is told from factors, should it ever stay empty."""
        rows, columns = self.W.shape
        A, B = self._parts()
        A[self.adapter] = self.W.new_full((self.r, columns), torch.nan)
        B[self.adapter] = self.W.new_full((rows, self.r), torch.nan)
        self.layer.r[self.adapter] = self.r

    def is_empty(self) -> bool:
        return any(bool(parts[self.adapter].isnan().all()) for parts in self._parts())

    def lacking(self, keys: set[str], name: str) -> list[str]:
        """Of `tinylora_A` and `tinylora_B`, those whose keys, in a model that calls the layer `name`, are these."""
        return [part for part in _PARTS if f"{name}.{part}.{self.adapter}" in keys]

    def fill(self) -> None:
        """With factors from the leading triplets."""
        W = self.W.float() if self.W.dtype == torch.float64 else self.W  # as PEFT
        with torch.no_grad(), torch.autocast(W.device.type, enabled=False):
            found = top_triplets(W, self.r)
            made = made_as_peft(found, self.W.dtype)
        if max(found.certificate.residuals) > _ACCURATE:
            self.fill_as_peft(_PARTS)
            return
        for parts, values in zip(self._parts(), made, strict=True):
            parts[self.adapter] = values.to(parts[self.adapter]).contiguous()  # PEFT may have widened or moved them

    def fill_as_peft(self, lacking: Sequence[str]) -> None:
        held = [parts[self.adapter] for parts in self._parts()]
        self.let_peft()
        for part, parts, before in zip(_PARTS, self._parts(), held, strict=True):
            parts[self.adapter] = parts[self.adapter].to(before) if part in lacking else before

    def _parts(self) -> tuple[Any, ...]:
        return tuple(getattr(self.layer, part) for part in _PARTS)


#: The rooms of what is being made or loaded; None where nothing is.
_ROOMS: ContextVar[list[_Room] | None] = ContextVar("rooms", default=None)


@contextmanager
def _rooms(model: Any = None) -> Iterator[list[_Room]]:
    """The rooms that are built meanwhile, filled at the end as far as they are empty. What is made for a load is the
    load's to fill."""
    loading = _ROOMS.get()
    if loading is not None:
        yield loading
        return
    rooms: list[_Room] = []
    token = _ROOMS.set(rooms)
    try:
        yield rooms
    finally:
        _ROOMS.reset(token)
        _fill([room for room in rooms if room.is_empty()], model)


def _fill(rooms: Sequence[_Room], model: Any) -> None:
    """Small weights side by side, as `tinylora init` does."""

    def named(room: _Room) -> None:
        try:
            room.fill()
        except FormatError as error:
            names = [name for name, module in model.named_modules() if module is room.layer] if model else []
            raise FormatError(error.what, where=names[0] if names else None) from None

    for device in {room.W.device for room in rooms}:
        there = [room for room in rooms if room.W.device == device]
        sizes = [(room.W.nbytes, min(room.W.shape)) for room in there]
        for _ in each_of(there, named, sizes, device=device, in_turn=False):
            pass


def _decomposing(original: Any) -> Any:
    """`_init_svd` of a layer, or `_init_svd_embedding`: room instead of factors."""

    @functools.wraps(original)
    def init_svd(layer: Any, adapter_name: str, r: int, *fan_in_fan_out: bool) -> None:
        let_peft = functools.partial(original, layer, adapter_name, r, *fan_in_fan_out)
        weight = layer.get_base_layer().weight.data
        if not _INSIDE.get() or not _is_plain(weight):
            let_peft()
            return
        W = weight.T if any(fan_in_fan_out) else weight
        room = _Room(layer, adapter_name, W, min(r, *W.shape), let_peft)
        with _rooms() as rooms:
            room.build()
            rooms.append(room)

    return init_svd


def _is_plain(weight: Any) -> bool:
    """Whether a weight is numbers in memory: no subclass that means others, and neither packed nor absent ones."""
    plain = type(weight) is Tensor and weight.dtype in _DTYPES and not weight.is_meta
    return plain and weight.ndim == 2 and weight.numel() > 0


def _making(original: Any) -> Any:
    """`inject_adapter` of the model, at whose end the rooms are filled."""

    @functools.wraps(original)
    def inject_adapter(tuner: Any, *args: Any, **kwargs: Any) -> Any:
        if not _INSIDE.get():
            return original(tuner, *args, **kwargs)
        with _rooms(tuner.model):
            return original(tuner, *args, **kwargs)

    return inject_adapter


def _loading(original: Any) -> Any:
    """`load_adapter` of the model: what the file lacks is PEFT's to decompose."""

    @functools.wraps(original)
    def load_adapter(model: Any, *args: Any, **kwargs: Any) -> Any:
        if not _INSIDE.get():
            return original(model, *args, **kwargs)
        with _rooms() as rooms:
            result = original(model, *args, **kwargs)
            built, missing = list(rooms), set(result.missing_keys)
            rooms.clear()
            names = {id(module): name for name, module in model.named_modules()} if missing else {}
            for room in built if names else []:
                if parts := room.lacking(missing, names[id(room.layer)]):
                    room.fill_as_peft(parts)
            return result

    return load_adapter


def _loading_all(original: Any) -> Any:
    """`from_pretrained`, which makes an adapter for `load_adapter` to fill."""

    @functools.wraps(original.__func__)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not _INSIDE.get():
            return original.__func__(cls, *args, **kwargs)
        with _rooms():
            return original.__func__(cls, *args, **kwargs)

    return classmethod(from_pretrained)


def _methods() -> list[Replacement]:
    from peft import PeftModel
    from peft.tuners.tinylora import Embedding, TinyLoraLayer, TinyLoraModel

    return [
        (TinyLoraLayer, "_init_svd", _decomposing),
        (Embedding, "_init_svd_embedding", _decomposing),
        (TinyLoraModel, "inject_adapter", _making),
        (PeftModel, "load_adapter", _loading),
        (PeftModel, "from_pretrained", _loading_all),
    ]


_PATCHES = Patches(_methods)
