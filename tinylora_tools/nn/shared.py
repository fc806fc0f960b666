"""What all layers of a model have in common: the trained vectors, and which adapters are at work."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ..errors import UnsupportedError

#: The name that stands for the base alone among `adapter_names`, as in PEFT.
BASE = "__base__"


class Shared:
    """One for a model and its layers; a plain object, so that a copied or pickled model keeps one of its own.

    Attributes
    ----------
    vectors : nn.ModuleDict
        Adapter to its groups' v, by the group's number.
    active : tuple of str
        The adapters whose updates are added.
    enabled : bool
        False within `disable_adapter()`.
    rows : tuple of str, optional
        While a batch is mixed, the adapter of each of its rows.
    """

    def __init__(self) -> None:
        self.vectors = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.enabled = True
        self.rows: tuple[str, ...] | None = None


class Buffers(nn.Module):
    """Tensors that aren't trained, by the adapter's name."""

    def put(self, name: str, tensor: Tensor, *, persistent: bool = True) -> None:
        """Add a tensor; one that isn't persistent stays out of the state dict."""
        self.register_buffer(name, tensor, persistent)

    def drop(self, name: str) -> None:
        """Remove a tensor."""
        delattr(self, name)

    def __getitem__(self, name: str) -> Tensor:
        found = self._buffers[name]
        assert found is not None  # noqa: S101  # none is ever put
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._buffers


def check_name(name: str, taken: Iterable[str]) -> None:
    """Raise UnsupportedError for what can't be an adapter's name, in a state dict and in a directory's."""
    hint = "Choose another, such as 'default' or 'math-2'."
    if not isinstance(name, str) or not name or name == BASE or set(name) & set("./\\\0"):
        raise UnsupportedError(
            f"{name!r} can't be an adapter's name: it becomes a part of tensors' names, and of a directory's",
            hint=f"It needs characters other than . / and \\. {hint}",
        )
    if any(hasattr(kind, name) for kind in (nn.ModuleDict, nn.ParameterDict)) or name in vars(nn.Module()):
        raise UnsupportedError(
            f"torch's modules have a {name!r} of their own, so no adapter may be called so", hint=hint
        )
    if name in taken:
        raise UnsupportedError(
            f"there is an adapter called {name!r} already", hint="Choose another name, or delete_adapter it first."
        )
