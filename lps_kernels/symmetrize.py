"""symmetrize: any function made equivariant by averaging over sampled group elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lps_kernels.elements import GroupElement
from lps_kernels.groups import uniform_group


def symmetrize(
    f: Callable[..., Any],
    x: Tensor | tuple[Tensor, ...],
    g: GroupElement,
    order_in: Any = 1,
    order_out: Any = 0,
    weights: Tensor | None = None,
) -> Any:
    """Estimate E[g f(g^-1 x)] from the k samples that g holds.

    >>> import torch, lps_kernels as lk
    >>> x, g = torch.randn(2, 5, 3), lk.Permutation.uniform(2, 4, 5)
    >>> y = lk.symmetrize(lambda x: x.cumsum(1), x, g, order_in=1, order_out=1)
    >>> assert y.shape == (2, 5, 3)

    Arguments:
        f: gets each input as (b * k, ...) and returns (b * k, ...), a tensor or a tuple of them.
        x: (b, ...), a tensor or a tuple of them.
        g: a group element with k samples for each of b inputs.
        order_in: how many axes of x the group acts on, or what the group's class takes, such as "point" or (1, 0); for
            a tuple of inputs a list of as many.
        order_out: the same of what f returns; for a tuple of outputs a list of as many.
        weights: (b, k), of a weighted mean; they are divided by their sum.
    Returns: (b, ...), like what f returned.
    Raises: ValueError where shapes or the number of orders do not fit.
    Source: Kim et al., NeurIPS 2023, equation 4.
    """
    if not callable(f):
        raise TypeError(f"f: expected a callable, got {type(f).__name__}")
    if not (hasattr(g, "transform_input") and hasattr(g, "transform_output")):
        raise TypeError(f"g: expected a group element, got {type(g).__name__}")
    inputs = x if isinstance(x, (tuple, list)) else (x,)
    orders = _orders("order_in", order_in, len(inputs), isinstance(x, (tuple, list)))
    transformed = [g.transform_input(a, o).flatten(0, 1) for a, o in zip(inputs, orders)]
    out = f(*transformed)
    several = isinstance(out, (tuple, list))
    outputs = out if several else (out,)
    orders = _orders("order_out", order_out, len(outputs), several)
    results = [g.transform_output(_unfold(y, g), o, weights) for y, o in zip(outputs, orders)]
    return tuple(results) if several else results[0]


def _orders(name: str, order: Any, count: int, several: bool) -> list:
    orders = list(order) if several and isinstance(order, (tuple, list)) else [order]
    if len(orders) == 1 and not isinstance(order, (tuple, list)):
        orders *= count
    if len(orders) != count:
        raise ValueError(f"{name}: expected {count} orders, got {order!r}")
    return orders


def _unfold(y: Tensor, g: GroupElement) -> Tensor:
    b, k = g.batch_size, g.n_samples
    if not isinstance(y, Tensor):
        raise TypeError(f"f: expected it to return a tensor or a tuple of tensors, got {type(y).__name__}")
    if y.dim() == 0 or y.shape[0] != b * k:
        raise ValueError(f"f: expected it to return shape ({b * k}, ...), got {tuple(y.shape)}")
    return y.unflatten(0, (b, k))


class Symmetrized(nn.Module):
    """A module made equivariant: `symmetrize` of f with group elements that a distribution draws from the input.

    >>> import torch, lps_kernels as lk
    >>> net = lk.Symmetrized(torch.nn.Linear(3, 2), "S_n", order_in=1, order_out=1, n_samples=4)
    >>> assert net(torch.randn(2, 5, 3)).shape == (2, 5, 2)

    Arguments:
        f: any callable; see `symmetrize`.
        distribution: distribution(x, k) -> group element with k samples, usually a module with an equivariant
            network in it; or the name of a group for uniform samples (group averaging): "S_n", "O(3)", "SO(3)",
            "E(3)", "SE(3)", "U(2)", "S_n x SE(3)", see `lps_kernels.groups`.
        order_in, order_out: see `symmetrize`.
        n_samples: k, unless a call says otherwise.
    Source: Kim et al., NeurIPS 2023, section 2.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        distribution: Callable[..., GroupElement] | str,
        order_in: Any = 1,
        order_out: Any = 0,
        n_samples: int = 1,
    ) -> None:
        super().__init__()
        if not callable(distribution):
            uniform_group(distribution)  # raises for a name that is none
        self.f, self.distribution = f, distribution
        self.order_in, self.order_out, self.n_samples = order_in, order_out, n_samples

    def extra_repr(self) -> str:
        name = f"distribution={self.distribution!r}, " if isinstance(self.distribution, str) else ""
        return f"{name}order_in={self.order_in}, order_out={self.order_out}, n_samples={self.n_samples}"

    def sample(self, x: Tensor | tuple[Tensor, ...], n_samples: int | None = None, **given: Any) -> GroupElement:
        """Draw the group elements for x; `given` goes to the distribution, for example num_nodes=."""
        k = self.n_samples if n_samples is None else n_samples
        named = isinstance(self.distribution, str)
        first = x[0] if named and isinstance(x, (tuple, list)) and x else x
        if named and not isinstance(first, Tensor):
            raise TypeError(f"x: expected a tensor (b, n, ...), got {type(first).__name__}")
        if named and first.dim() < 2:
            raise ValueError(f"x: expected a tensor (b, n, ...), got {tuple(first.shape)}")
        draw = uniform_group(self.distribution) if named else self.distribution
        return draw(first, k, **given)

    def forward(self, x: Tensor | tuple[Tensor, ...], n_samples: int | None = None, **given: Any) -> Any:
        g = self.sample(x, n_samples, **given)
        return symmetrize(self.f, x, g, self.order_in, self.order_out)
