"""Inverses of permutations: the rank of each node, (b, k, n) int32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.launch import OPTIONS, on, power_of_two, programs
from lps_kernels.triton.moves import node, positions
from lps_kernels.triton.sort import MAX_NODES, inverse

_TILE = 1024  # ranks a program where rows are too long to sort
_WARPS = {32: 1, 64: 1, 128: 1, 256: 1, 512: 2, 1024: 4, 2048: 8, 4096: 16}  # eight ranks a thread


@triton.jit(do_not_specialize=["n"])
def inverse_kernel(perm, inv, n, BLOCK: tl.constexpr):
    """A row a program, by a sort: numbers written where they belong would ask for a sector each."""
    at, i = tl.program_id(0).to(tl.int64) * n, tl.arange(0, BLOCK)
    order = tl.where(i < n, node(perm + at, i, n, i < n), i)
    tl.store(inv + at + i, inverse(order, BLOCK), mask=i < n)


@triton.jit(do_not_specialize=["n", "count"])
def long_inverse_kernel(perm, inv, n, count: tl.int64, P: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * P
    row, rank = positions(first, n, P)
    mask = first + tl.arange(0, P) < count
    tl.store(inv + row * n + node(perm, row * n + rank, n, mask), rank, mask=mask)


def inverse_of(perm: Tensor) -> Tensor:
    """The inverses of permutations (b, k, n)."""
    count, (b, k, n) = perm.numel(), perm.shape
    if n <= MAX_NODES:
        inv = torch.empty_like(perm, dtype=torch.int32)
        block = power_of_two(n, 32)
        if count:
            with on(perm):
                inverse_kernel[programs(b * k, "permute")](perm, inv, n, block, num_warps=_WARPS[block], **OPTIONS)
        return inv
    inv = torch.zeros_like(perm, dtype=torch.int32)  # whole for a bijection alone
    if count:
        with on(perm):
            long_inverse_kernel[programs(-(-count // _TILE), "permute")](
                perm, inv, n, count, _TILE, num_warps=4, **OPTIONS
            )
    return inv
