"""Tensors' names without what wrapped models leave in them.

torch.compile puts `_orig_mod.` before what it compiles, anywhere in a name; FSDP and activation checkpointing do alike;
DistributedDataParallel puts `module.` before everything. Nobody's modules are called so, but `module` may be one, so
that it goes only where every name begins with it. A name that would be another's stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .memory_file import MemoryFile
from .safetensors_file import SafetensorsFile
from .tensors import TensorFile
from .torch_file import TorchFile

#: Path parts that are wrappers'.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

_PARALLEL = "module."


def plain_names(names: Iterable[str], root: str = "") -> dict[str, str]:
    """Names that are wrapped to what they are without it; `root` is what all modules' names begin with."""
    names = list(names)
    bare = {name: _unwrapped(name) for name in names}
    for start in ("", root) if root else ("",):
        below = [name for name, plain in bare.items() if plain.startswith(start)]
        if below and all(bare[name].startswith(start + _PARALLEL) for name in below):
            bare |= {name: start + bare[name].removeprefix(start + _PARALLEL) for name in below}
    changed = {name: plain for name, plain in bare.items() if plain != name}
    times = Counter(changed.values())
    return {name: plain for name, plain in changed.items() if plain and plain not in bare and times[plain] == 1}


def _unwrapped(name: str) -> str:
    if not any(wrapper in name for wrapper in WRAPPERS):  # of nearly all checkpoints, all names
        return name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def renamed(file: TensorFile, names: Mapping[str, str]) -> TensorFile:
    """The same file with some of its tensors under other names."""
    if not names.keys() & file.tensors.keys():
        return file
    tensors = {names.get(name, name): replace(info, name=names.get(name, name)) for name, info in file.tensors.items()}
    if isinstance(file, SafetensorsFile):
        return replace(file, tensors=tensors, header=b"")  # whose bytes have the other names
    if isinstance(file, TorchFile):
        aliases = {names.get(one, one): names.get(other, other) for one, other in file.aliases.items()}
        state = {names.get(name, name): tensor for name, tensor in file._stored.items()}
        return replace(file, tensors=tensors, aliases=aliases, _stored=state)
    return MemoryFile(file.path, {names.get(name, name): file.read(name) for name in file.tensors}, file.metadata)
