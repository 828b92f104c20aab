"""Patch projections: graphs to the tokens of a transformer that knows nothing of graphs, and back.

Features of nodes (order 1) are cut into stretches of the node sequence, those of edges (order 2) into squares of the
adjacency, as an image is; each patch becomes one token by one linear map. Patches are as small as they can be.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

PADDING = {"zero": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class Layout:
    """How n nodes are cut into tokens along each of `order` axes.

    >>> layout = Layout(188, 196, order=2)
    >>> assert (layout.grid, layout.patch, layout.sides) == (14, 14, (0, 8))

    Arguments:
        n: nodes.
        tokens: how many there are; for order 2 a square number.
        order: 1 or 2 axes.
        centred: padding on both sides rather than behind.
    """

    def __init__(self, n: int, tokens: int, order: int, centred: bool = False) -> None:
        self.n, self.order = n, order
        self.grid = tokens if order == 1 else math.isqrt(tokens)
        if self.grid**order != tokens:
            raise ValueError(f"tokens: expected a square number for order 2, got {tokens}")
        self.patch = max(1, math.ceil(n / self.grid))
        missing = self.patch * self.grid - n
        before = missing // 2 if centred else 0
        self.sides = (before, missing - before)


class PatchIn(nn.Module):
    """Features of nodes or edges to tokens.

    >>> import torch
    >>> assert PatchIn(Layout(10, 9, order=2), 3, 32, pad="reflect")(torch.randn(5, 10, 10, 3)).shape == (5, 9, 32)

    Arguments:
        layout: see `Layout`.
        channels, width: of features, and of tokens.
        pad: "zero", "reflect", "replicate" or "circular".
    """

    def __init__(self, layout: Layout, channels: int, width: int, pad: str = "zero") -> None:
        super().__init__()
        if pad not in PADDING:
            raise ValueError(f"pad: expected one of {', '.join(PADDING)}, got {pad!r}")
        if channels < 1:
            raise ValueError("channels: expected 1 or more; without features of nodes order_in is 'edges' or 2")
        longest = {"reflect": layout.n - 1, "circular": layout.n}.get(pad, max(layout.sides))
        if max(layout.sides) > longest:
            raise ValueError(f"pad: {pad!r} can add at most {longest} nodes to {layout.n}, not {max(layout.sides)}")
        self.layout, self.pad = layout, pad
        conv = {1: nn.Conv1d, 2: nn.Conv2d}[layout.order]
        self.projection = conv(channels, width, layout.patch, layout.patch)

    def forward(self, x: Tensor) -> Tensor:
        """(m, n, c) or (m, n, n, c) -> (m, tokens, width)."""
        x = x.movedim(-1, 1)
        if any(self.layout.sides):
            x = F.pad(x, self.layout.sides * self.layout.order, PADDING[self.pad])
        return self.projection(x).flatten(2).mT


class PatchOut(nn.Module):
    """Tokens to features of nodes or edges: the transpose of `PatchIn`, and the padding cut off.

    >>> import torch
    >>> assert PatchOut(Layout(10, 9, order=2), 3, 32)(torch.randn(5, 9, 32)).shape == (5, 10, 10, 3)
    """

    def __init__(self, layout: Layout, channels: int, width: int) -> None:
        super().__init__()
        self.layout = layout
        conv = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[layout.order]
        self.projection = conv(width, channels, layout.patch, layout.patch)

    def forward(self, tokens: Tensor) -> Tensor:
        """(m, tokens, width) -> (m, n, c) or (m, n, n, c)."""
        y = self.projection(tokens.mT.unflatten(-1, [self.layout.grid] * self.layout.order))
        before, n = self.layout.sides[0], self.layout.n
        for axis in range(2, y.dim()):
            y = y.narrow(axis, before, n)
        return y.movedim(1, -1)
