"""Sizes of a rotation's call, checked, and how features are laid out in lanes: a lane is a node and a channel."""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor

from lps_kernels.triton.launch import cdiv, check_nodes, compute, power_of_two

SMALL = 4  # up to this d the entries of a node and a channel are unrolled
# Most lanes of a program, its warps, by order. A tensor of 4 x 4 has sixteen entries a lane, and so has its gradient.
LANES = {1: (256, 2), 2: (128, 4)}
# The same where nodes are put in order in shared memory, by a program that holds all of a graph.
WHOLE = {1: 1024, 2: 256}
# From this c on runs of channels are long enough to be read entry by entry without waste.
WIDE = 64
SAMPLES = 8  # of one input that a program turns, where samples are independent: it reads the input once for them


class Space(NamedTuple):
    """Sizes of a call, as csrc/cpu/rotate.h has them, and how they are laid out in lanes."""

    b: int
    k: int
    n: int
    d: int
    c: int
    order: int
    centers: int  # how many centers an input has: 0, 1 or k

    @property
    def node(self) -> int:
        return self.d**self.order * self.c

    def shape(self, samples: bool) -> tuple[int, ...]:
        return (self.b, *[self.k] * samples, self.n, *[self.d] * self.order, self.c)

    def lanes(self, itemsize: int = 4, permuted: bool = False) -> dict:
        """Constants of the kernels and their launch."""
        return _lanes(self.n, self.d, self.c, self.order, itemsize, self.whole(permuted))

    def whole(self, permuted: bool) -> bool:
        """Whether a program holds a graph and puts its nodes in order."""
        return permuted and self.n * self.c <= WHOLE[self.order]

    def ranks(self, permuted: bool) -> int:
        """How many ranks such a program has, each thread one at least, or 0."""
        return power_of_two(self.n, self.lanes(permuted=True)["THREADS"]) if self.whole(permuted) else 0

    def blocks(self, permuted: bool = False) -> int:
        lanes = self.lanes(permuted=permuted)["LANES"]
        return cdiv(self.n * self.c, lanes if self.c >= WIDE else lanes // self.c * self.c)


@functools.lru_cache(maxsize=1024)
def _lanes(n: int, d: int, c: int, order: int, itemsize: int, whole: bool) -> dict:
    most, warps = LANES[order]
    count = d**order
    lanes, padded = min(WHOLE[order] if whole else most, power_of_two(n * c, 32 * warps)), power_of_two(count)
    warps = max(warps * lanes // most, warps)
    skew = padded > count and count * c * itemsize % 32 > 0
    constants = {"D": d, "ORDER": order, "LANES": lanes, "PADDED": padded, "SKEW": skew}
    return {**constants, "DIRECT": c >= WIDE, "THREADS": 32 * warps, "num_warps": warps}


def space_of(
    name: str, x: Tensor, q: Tensor, center: Tensor | None, num_nodes: Tensor | None, order: int, samples: bool
) -> Space:
    """Sizes, checked for what would read or write out of bounds."""
    lead = 2 if samples else 1
    if order not in (1, 2) or q.dim() != 4 or q.shape[2] != q.shape[3] or q.dtype != compute(x.dtype)[0]:
        raise ValueError(
            f"{name}: expected order 1 or 2 and q (b, k, d, d) in the computing dtype, got {order}, {q.dtype}"
        )
    b, k, d, _ = q.shape
    shape = x.shape
    if shape[:lead] != q.shape[:lead] or shape[lead + 1 : -1] != (d,) * order:
        raise ValueError(f"{name}: features {tuple(x.shape)} and q {tuple(q.shape)} do not fit")
    if center is not None and (order != 1 or center.shape not in ((b, 1, d), (b, k, d)) or center.dtype != q.dtype):
        raise ValueError(f"{name}: expected center (b, 1 or k, d) for order 1, got {tuple(center.shape)}")
    check_nodes(name, num_nodes, b)
    return Space(b, k, shape[lead], d, shape[-1], order, 0 if center is None else center.shape[1])
