"""A weight of any dtype as an operator in a wider one, without a wide copy of itself. Letters as in `krylov`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Elements of W that are widened at a time: few enough for the caches of a core.
_BLOCK_ELEMENTS = 1 << 19

#: Elements of W that are multiplied at a time before that.
_ROUGH_ELEMENTS = 1 << 21

#: Lines are taken so many together, or a multiple: a few more or less cost the libraries up to twice as much.
_TOGETHER = 32

#: Lines that are added up in the work dtype, about; sums of these are in float64.
_ADDED_UP = 512

#: Applications of W^T W in bfloat16 before the iteration proper: each to one of so many parts of the long side's
#: entries, since the first directions needn't be more than near.
_ROUGH_STEPS = (4, 4, 1)

#: Places that such a part is taken from.
_PLACES = 8


class WideWeight:
    """A weight as an operator, widened a few of its lines at a time: rows, or columns, whichever lie in one piece.

    It acts on its shorter side: as W where W is tall, as W^T where it is wide. Here W stands for either, and is
    (long, short). What it stands for is W over 2**exponent.
    """

    def __init__(self, W: Tensor, work: torch.dtype, exponent: int = 0) -> None:
        self.transposed = W.shape[0] < W.shape[1]
        self.work, self.device = work, W.device
        self.long, self.short = max(W.shape), min(W.shape)
        self._stored, self._exponent = W, exponent
        self._W = W.T if self.transposed else W
        self._by_rows = self._W.stride(0) >= self._W.stride(1)
        self._lines = self._W if self._by_rows else self._W.T  # (lines, length)
        # In two factors, as a single one may lie outside the work dtype's range.
        half = exponent // 2
        self._factors = (2.0**-half, 2.0 ** (half - exponent)) if exponent else ()
        lines, length = self._lines.shape
        step = -(-_BLOCK_ELEMENTS // (length * _TOGETHER)) * _TOGETHER
        if W.device.type != "cpu":
            step *= 128  # a GPU wants more at once, and has no cache to respect
        self._step = min(step, lines)
        plain = W.dtype == work and not exponent
        self._buffer = None if plain else torch.empty(self._step, length, dtype=work, device=W.device)

    @property
    def holds_float32(self) -> bool:
        """Whether it is worked on in float64 though each of its numbers is one of float32."""
        return self.work == torch.float64 and self._stored.dtype != torch.float64

    def narrower(self) -> WideWeight:
        """The same weight in float32."""
        return WideWeight(self._stored, torch.float32, self._exponent)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive lines of W and their values, (lines, length), in the work dtype. The values' memory is reused."""
        for first in range(0, len(self._lines), self._step):
            part = slice(first, min(first + self._step, len(self._lines)))
            block = self._lines[part]
            if self._buffer is not None:
                block = self._scaled(self._buffer[: len(block)].copy_(block))
            yield part, block

    def _scaled(self, block: Tensor) -> Tensor:
        for factor in self._factors:
            block *= factor
        return block

    def apply(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Y = W X in the work dtype, (long, k), and Z = W^T Y in float64, (short, k), for X (short, k)."""
        rows = self._rows(X)
        if not self._by_rows:  # twice over whole lines takes less than once over pieces of them
            Y = self._along(rows).to(self.work)
            return Y.T, self._across(Y).T
        Y = torch.empty(len(rows), self.long, dtype=self.work, device=self.device)
        along = _Sum(rows)
        for part, block in self.blocks():
            Y[:, part] = image = rows @ block.T
            along.add(image, block)
        return Y.T, along.total().T

    def apply_transposed(self, Y: Tensor) -> Tensor:
        """W^T Y in float64, (short, k), for Y (long, k)."""
        rows = self._rows(Y)
        return (self._along(rows) if self._by_rows else self._across(rows)).T

    def products(self, X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
        """W X, (long, k), and W^T Y, (short, k), both in float64, for X (short, k) and Y (long, k)."""
        across, along = self._rows(X), self._rows(Y)
        if not self._by_rows:
            across, along = along, across
        dots, total = self._dots(across), _Sum(across)
        for part, block in self.blocks():
            dots[:, part] = across @ block.T
            total.add(along[:, part], block)
        return (dots.T, total.total().T) if self._by_rows else (total.total().T, dots.T)

    def _rows(self, X: Tensor) -> Tensor:
        """X (n, k) as k rows in the work dtype: products of a few long rows run faster than of a few columns."""
        return X.T.to(self.work).contiguous()

    def _across(self, rows: Tensor) -> Tensor:
        """The dot products of rows (k, length) with all lines, in float64: (k, lines)."""
        dots = self._dots(rows)
        for part, block in self.blocks():
            dots[:, part] = rows @ block.T
        return dots

    def _along(self, rows: Tensor) -> Tensor:
        """The sum of all lines, times rows (k, lines), in float64: (k, length)."""
        total = _Sum(torch.empty(len(rows), self._lines.shape[1], dtype=self.work, device=self.device))
        for part, block in self.blocks():
            total.add(rows[:, part], block)
        return total.total()

    def _dots(self, rows: Tensor) -> Tensor:
        return torch.empty(len(rows), len(self._lines), dtype=torch.float64, device=self.device)

    def aim(self, X: Tensor, width: int) -> Tensor:
        """Orthonormal columns near the leading right vectors, (short, width), for a random X (short, k), k >= width.

        A start may be as rough as it likes: where bfloat16 has fast products of its own, it costs little to take one
        that W^T W has been applied to.
        """
        if self._W.dtype != torch.bfloat16 or self._factors or not _fast_bfloat16(self.device):
            return X[:, :width]
        step = max(16, _ROUGH_ELEMENTS // self.short)  # in pieces, since libraries copy what they multiply
        if self.device.type != "cpu":
            step = self.long
        for parts in _ROUGH_STEPS:
            rough = X.to(torch.bfloat16)
            Z = torch.zeros(X.shape, dtype=torch.float64, device=self.device)
            piece = step if parts == 1 else max(16, min(step, self.long // (parts * _PLACES)))
            for first in range(0, self.long, piece * parts):
                block = self._W[first : first + piece]
                Z += block.T @ (block @ rough)
            inner = X.T @ Z
            X = orthonormal(Z @ torch.linalg.eigh(inner + inner.T).eigenvectors.flip(1))
        return X[:, :width]

    def right_vectors(self) -> Tensor:
        """All right singular vectors in float64, (short, short), by descending singular value: the dense route.

        Where the work dtype is float64, of W itself, so that small values keep their accuracy; else of its Gram matrix,
        whose rounding in float64 is far below float32's.
        """
        if self.work == torch.float64:
            W = self._scaled(self._W.to(torch.float64, copy=True))
            Vh: Tensor = torch.linalg.svd(W, full_matrices=False).Vh
            return Vh.T
        G = torch.zeros(self.short, self.short, dtype=torch.float64, device=self.device)
        step = max(16, _BLOCK_ELEMENTS // self.short)
        for first in range(0, self.long, step):
            wide = self._scaled(self._W[first : first + step].to(torch.float64, copy=True))
            G.addmm_(wide.T, wide)
        if self.device.type != "cpu":
            vectors: Tensor = torch.linalg.eigh(G).eigenvectors
            return vectors.flip(1)
        columnwise, values = G.T, torch.empty(self.short, dtype=torch.float64)
        torch.linalg.eigh(columnwise, out=(values, columnwise))  # in the place of G, which is symmetric
        return columnwise.flip(1)


class _Sum:
    """A sum of products, (k, length) in float64: some in the work dtype first, for which `like` (k, length) is a
    pattern."""

    def __init__(self, like: Tensor) -> None:
        self._total = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
        self._some, self._summands = torch.zeros_like(like), 0

    def add(self, rows: Tensor, block: Tensor) -> None:
        """Add rows (k, lines) times block (lines, length)."""
        self._some.addmm_(rows, block)
        self._summands += len(block)
        if self._summands >= _ADDED_UP:
            self._total += self._some
            self._some.zero_()
            self._summands = 0

    def total(self) -> Tensor:
        return self._total + self._some


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices beat widening them first."""
    if device.type != "cpu":
        return True
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def orthonormal(X: Tensor) -> Tensor:
    """An orthonormal basis of the columns of X (n, k), k at most n."""
    Q: Tensor = torch.linalg.qr(X).Q
    return Q
