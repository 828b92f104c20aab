"""TokenModel: an encoder of tokens, pretrained or not, as a base model of graphs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lps.models.patches import Layout, PatchIn, PatchOut
from lps.models.representations import axes_of, inputs_of


class TokenModel(nn.Module):
    """Patches in, an encoder, patches out.

    Where nodes and edges are both given, a token is the sum of a patch of each. An output of order 0 is read from the
    encoder's pooled token, one of order 1 or 2 from all tokens.

    Arguments:
        encoder: encoder(tokens (m, tokens, width_in)) -> (m, tokens, width) and pooled (m, width); with attributes
            `tokens`, `width_in`, `width` and `keeps_tokens`, see `VisionEncoder`.
        n, node_channels, edge_channels, out_channels: sizes, see `MLP`.
        order_in, order_out: see `SymmetrizedModel`.
        pad, centred: see `PatchIn`, `Layout`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        n: int,
        node_channels: int,
        out_channels: int,
        edge_channels: int = 1,
        order_in: Any = 2,
        order_out: int | str = 0,
        pad: str = "zero",
        centred: bool = False,
    ) -> None:
        super().__init__()
        if order_out != 0 and not encoder.keeps_tokens:
            raise ValueError("patch_dropout: expected 0 where the output is read from all tokens")
        self.input = nn.ModuleList(
            PatchIn(Layout(n, encoder.tokens, order, centred), channels, encoder.width_in, pad)
            for order, channels in inputs_of(order_in, node_channels, edge_channels)
        )
        self.encoder = encoder
        axes = axes_of(order_out)
        self.pools = axes == 0
        if self.pools:
            self.output = nn.Linear(encoder.width, out_channels)
        else:
            self.output = PatchOut(Layout(n, encoder.tokens, axes, centred), out_channels, encoder.width)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Features (m, n, c) and (m, n, n, c), in the order of order_in -> (m, ...)."""
        tokens, pooled = self.encoder(sum(project(x) for project, x in zip(self.input, inputs)))
        return self.output(pooled if self.pools else tokens)
