"""The symmetrized model: a base model of any kind, averaged over samples of p(g|x)."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

import lps_kernels as lk
from lps.data.batch import Graphs, Particles
from lps.groups.base import Distribution
from lps.models.representations import GRAPH_OUT, PARTICLE_OUT, inputs_of, order_under, represent


class Output(NamedTuple):
    """What a model returns; a loss adds `entropy_weight * entropy`."""

    prediction: Tensor
    entropy: Tensor


class SymmetrizedModel(nn.Module):
    """E[g f(g^-1 x)], g ~ p(g|x), estimated with k samples.

    >>> import torch
    >>> from lps.groups import GraphDistribution
    >>> graphs = Graphs(torch.randn(2, 4, 3), torch.ones(2, 4, 4), torch.tensor([4, 3]))
    >>> model = SymmetrizedModel(GraphDistribution(3), lambda x: x.sum(1), order_in=1, n_samples=5)
    >>> assert model(graphs).prediction.shape == (2, 3)

    Arguments:
        distribution: distribution(batch, k) -> `Sample`.
        backbone: f, any module that takes what `represent` makes of a batch, with b * k in front.
        order_in: of graphs, which features f takes, see `represent`.
        order_out: of graphs 0 for (b, c), 1 for (b, n, c), 2 for (b, n, n, c), or "diagonal" for (b, n, c) read off
            the diagonal of the last; of particles "vector" or "point", or "displacement" of the positions, (b, n, 3).
        n_samples: k, unless a call says otherwise.
    Source: Kim et al., NeurIPS 2023, section 2.
    """

    def __init__(
        self,
        distribution: Distribution,
        backbone: nn.Module,
        order_in: Any = (1, 2),
        order_out: int | str = 0,
        n_samples: int = 1,
    ) -> None:
        super().__init__()
        order_in = tuple(order_in) if isinstance(order_in, list) else order_in
        inputs_of(order_in, 0, 0)  # raises for one that is none
        if order_out not in (*GRAPH_OUT, *PARTICLE_OUT):
            raise ValueError(f"order_out: expected one of {[*GRAPH_OUT, *PARTICLE_OUT]}, got {order_out!r}")
        if n_samples < 1:
            raise ValueError(f"n_samples: expected 1 or more, got {n_samples}")
        self.distribution, self.backbone = distribution, backbone
        self.order_in, self.order_out, self.n_samples = order_in, order_out, n_samples

    def forward(self, batch: Graphs | Particles, k: int | None = None) -> Output:
        k = self.n_samples if k is None else k
        if k < 1:
            raise ValueError(f"k: expected 1 or more, got {k}")
        g, entropy = self.distribution(batch, k)
        return Output(self.predict(batch, g), entropy)

    def predict(self, batch: Graphs | Particles, g: lk.GroupElement) -> Tensor:
        """The mean over given samples g."""
        inputs, orders_in = represent(batch, self.order_in, g)
        y = lk.symmetrize(self.backbone, inputs, g, orders_in, self._order_out(batch, g))
        if self.order_out == "diagonal":
            return y.diagonal(dim1=1, dim2=2).mT
        return batch.positions + y if self.order_out == "displacement" else y

    def _order_out(self, batch: Graphs | Particles, g: lk.GroupElement) -> Any:
        known = PARTICLE_OUT if isinstance(batch, Particles) else GRAPH_OUT
        if self.order_out not in known:
            raise ValueError(f"order_out: expected one of {list(known)} for {type(batch).__name__}")
        order = known[self.order_out]
        return order_under(g, 1, order) if isinstance(batch, Particles) else order


class IdentifiedModel(SymmetrizedModel):
    """A model that stays in node order and tells nodes apart by identifiers that p(g|x) deals out: rows of P.

    The backbone takes the graphs and its own first weight, permuted to the order of the nodes: P W, a gather of W,
    is all that it would see of an n x n matrix of identifiers. It returns (b, n or nothing, k, c).
    """

    def predict(self, batch: Graphs, g: lk.GroupElement) -> Tensor:
        weight = self.backbone.identifiers
        if weight.shape[0] < batch.x.shape[1]:
            raise ValueError(f"n: expected graphs of at most {weight.shape[0]} nodes, got {batch.x.shape[1]}")
        weight = weight[: batch.x.shape[1]].expand(len(batch), len(g), -1, -1).contiguous()  # once, for both directions
        return self.backbone(batch, g.transform_output(weight, order=1, reduce=None)).mean(-2)
