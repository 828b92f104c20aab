"""Groups by name: "S_n", "O(3)", "SE(3)", "U(2)", "S_n x O(3)" to uniform samples for an input."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from torch import Tensor

from lps_kernels.elements import Euclidean, GroupElement, Orthogonal, Permutation, Product, Unitary
from lps_kernels.ops.rows import compute_dtype

NAMES = "'S_n', 'C_n', 'D_n', 'O(d)', 'SO(d)', 'E(d)', 'SE(d)', 'U(d)' with a number d, or 'S_n x ' one of these"

Sampler = Callable[..., GroupElement]


def uniform_group(name: str) -> Sampler:
    """sample(x, k, num_nodes=None) -> uniform group elements for x (b, n, d), or (b, n, ...) for permutations.

    Where an E(d) is meant, x holds the points whose centroid is the origin. The finite "C_n" and "D_n" are averaged
    over as a whole, whatever k.

    >>> import torch
    >>> g = uniform_group("S_n x SE(3)")(torch.randn(2, 5, 3), 4)
    >>> assert len(g) == 4 and g.motion.q.shape == (2, 4, 3, 3)
    """
    parts = name.split(" x ") if isinstance(name, str) else []
    makers = [_factor(part) for part in parts]
    if len(makers) == 1 and makers[0]:
        return makers[0]
    if len(makers) == 2 and parts[0] == "S_n" and makers[1] and not parts[1].endswith("_n"):
        return lambda x, k, num_nodes=None: Product(makers[0](x, k, num_nodes), makers[1](x, k, num_nodes))
    raise ValueError(f"distribution: expected a callable or one of {NAMES}, got {name!r}")


def _all_of(name: str, x: Tensor, k: int, num_nodes: Tensor | None = None) -> Permutation:
    if num_nodes is not None:
        raise ValueError(f"num_nodes: expected none for {name}, which turns a ring of all n nodes")
    return Permutation.all_of(name, x.shape[0], x.shape[1], x.device)


def _factor(name: str) -> Sampler | None:
    if name == "S_n":
        return lambda x, k, num_nodes=None: Permutation.uniform(x.shape[0], k, x.shape[1], num_nodes, device=x.device)
    if name in ("C_n", "D_n"):
        return functools.partial(_all_of, name)
    found = re.fullmatch(r"(S?)([OE])\((\d+)\)|U\((\d+)\)", name)
    if not found:
        return None
    special, kind, d = bool(found[1]), found[2] or "U", int(found[3] or found[4])

    def sample(x: Tensor, k: int, num_nodes: Tensor | None = None) -> GroupElement:
        if kind == "E":
            if x.dim() != 3 or x.shape[-1] != d:
                raise ValueError(f"x: expected points (b, n, {d}) for {name}, got {tuple(x.shape)}")
            return Euclidean.uniform(x, k, special, num_nodes)
        if kind == "U":
            return Unitary.uniform(x.shape[0], k, d, device=x.device, dtype=x.dtype)
        return Orthogonal.uniform(x.shape[0], k, d, special, device=x.device, dtype=compute_dtype(x.dtype))

    return sample
