"""A weight of any dtype as an operator in a wider one, without a wide copy of itself. Letters as in `krylov`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Elements of W that are widened at a time: few enough for the caches of a core.
_BLOCK_ELEMENTS = 1 << 20

#: Elements of W that are multiplied at a time before that.
_ROUGH_ELEMENTS = 1 << 23

#: Columns up to which a product is better made with rows; in float64, whose products with 16 columns take two to three
#: times as long on some processors, any number is.
_NARROW = 8

#: Applications of W^T W in bfloat16 before the iteration proper.
_ROUGH_STEPS = 3


class WideWeight:
    """A weight as an operator, widened a few rows (or columns) at a time.

    It acts on its shorter side: as W where W is tall, as W^T where it is wide. Here W stands for either, and is
    (long, short). What it stands for is W over 2**exponent.
    """

    def __init__(self, W: Tensor, work: torch.dtype, exponent: int = 0) -> None:
        self.transposed = W.shape[0] < W.shape[1]
        self.work, self.device = work, W.device
        self.long, self.short = max(W.shape), min(W.shape)
        self._W, self._exponent = W, exponent
        # In two factors, as a single one may lie outside the work dtype's range.
        half = exponent // 2
        self._factors = (2.0**-half, 2.0 ** (half - exponent)) if exponent else ()
        step = max(16, _BLOCK_ELEMENTS // self.short)
        if W.device.type != "cpu":
            step *= 64  # a GPU wants more at once, and has no cache to respect
        self._step = min(step, self.long)
        shape = (self.short, self._step) if self.transposed else (self._step, self.short)
        plain = W.dtype == work and not exponent
        self._buffer = None if plain else torch.empty(shape, dtype=work, device=W.device)

    @property
    def holds_float32(self) -> bool:
        """Whether it is worked on in float64 though each of its numbers is one of float32."""
        return self.work == torch.float64 and self._W.dtype != torch.float64

    def narrower(self) -> WideWeight:
        """The same weight in float32."""
        return WideWeight(self._W, torch.float32, self._exponent)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive rows of W and their values, (rows, short), in the work dtype. The values' memory is reused."""
        for first in range(0, self.long, self._step):
            part = slice(first, min(first + self._step, self.long))
            size = part.stop - first
            block = self._W[:, part] if self.transposed else self._W[part]
            if self._buffer is not None:
                block = (self._buffer[:, :size] if self.transposed else self._buffer[:size]).copy_(block)
                for factor in self._factors:
                    block *= factor
            yield part, block.T if self.transposed else block

    def apply(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Y = W X in the work dtype, (long, k), and Z = W^T Y in float64, (short, k), for X (short, k)."""
        X = X.to(self.work)
        Y = torch.empty(self.long, X.shape[1], dtype=self.work, device=self.device)
        Z = torch.zeros(X.shape, dtype=torch.float64, device=self.device)
        narrow = X.shape[1] <= _NARROW or self.work == torch.float64
        rows = X.T.contiguous() if narrow else X
        for part, block in self.blocks():
            if narrow:  # products of a few long rows run faster than of a few columns
                image = rows @ block.T  # (k, size)
                Y[part] = image.T
                Z += (image @ block).T
            else:
                torch.mm(block, X, out=Y[part])
                Z += block.T @ Y[part]
        return Y, Z

    def aim(self, X: Tensor, width: int) -> Tensor:
        """Orthonormal columns near the leading right vectors, (short, width), for a random X (short, k), k >= width.

        A start may be as rough as it likes: where bfloat16 has fast products of its own, it costs little to take one
        that W^T W has been applied to.
        """
        if self._W.dtype != torch.bfloat16 or self._factors or not _fast_bfloat16(self.device):
            return X[:, :width]
        W = self._W.T if self.transposed else self._W
        step = max(self._step, _ROUGH_ELEMENTS // self.short)  # in parts, since libraries copy what they multiply
        for _ in range(_ROUGH_STEPS):
            rough = X.to(torch.bfloat16)
            Z = torch.zeros(X.shape, dtype=torch.float64, device=self.device)
            for first in range(0, self.long, step):
                block = W[first : first + step]
                Z += block.T @ (block @ rough)
            inner = X.T @ Z
            X = orthonormal(Z @ torch.linalg.eigh(inner + inner.T).eigenvectors.flip(1))
        return X[:, :width]

    def apply_transposed(self, Y: Tensor) -> Tensor:
        """W^T Y in float64, (short, k), for Y (long, k)."""
        Y = Y.to(self.work)
        Z = torch.zeros(self.short, Y.shape[1], dtype=torch.float64, device=self.device)
        for part, block in self.blocks():
            Z += block.T @ Y[part]
        return Z

    def right_vectors(self) -> Tensor:
        """All right singular vectors in float64, (short, short), by descending singular value: the dense route.

        Where the work dtype is float64, of W itself, so that small values keep their accuracy; else of its Gram matrix,
        whose rounding in float64 is far below float32's.
        """
        if self.work == torch.float64:
            W = torch.empty(self.long, self.short, dtype=torch.float64, device=self.device)
            for part, block in self.blocks():
                W[part] = block
            Vh: Tensor = torch.linalg.svd(W, full_matrices=False).Vh
            return Vh.T
        G = torch.zeros(self.short, self.short, dtype=torch.float64, device=self.device)
        for _, block in self.blocks():
            wide = block.to(torch.float64)
            G.addmm_(wide.T, wide)
        if self.device.type != "cpu":
            vectors: Tensor = torch.linalg.eigh(G).eigenvectors
            return vectors.flip(1)
        columnwise, values = G.T, torch.empty(self.short, dtype=torch.float64)
        torch.linalg.eigh(columnwise, out=(values, columnwise))  # in the place of G, which is symmetric
        return columnwise.flip(1)


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices beat widening them first."""
    if device.type != "cpu":
        return True
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def orthonormal(X: Tensor) -> Tensor:
    """An orthonormal basis of the columns of X (n, k), k at most n."""
    Q: Tensor = torch.linalg.qr(X).Q
    return Q
