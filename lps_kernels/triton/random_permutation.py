"""random_permutation: a sort of random 63-bit keys, a row in a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.launch import OPTIONS, check_nodes, dense, on, power_of_two, programs
from lps_kernels.triton.philox import STREAM_PERMUTATION, STREAM_TIES, philox
from lps_kernels.triton.sort import MAX_NODES, count_nodes

# Warps by block: eight keys a lane.
_WARPS = {16: 1, 32: 1, 64: 1, 128: 1, 256: 1, 512: 2, 1024: 4, 2048: 8, 4096: 16}


@triton.jit
def four(a, b, c, d, BLOCK: tl.constexpr):
    """(BLOCK,) of four quarters, in an order that every call shares."""
    return tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), (BLOCK,), can_reorder=True)


@triton.jit
def row_words(seed, call, row, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    a, b, c, d = philox(tl.load(seed), call, row, STREAM)
    return four(a, b, c, d, BLOCK)


@entry()
def random_permutation_kernel(seed, num_nodes, perm, k, n, index_mask, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64)
    # A sort does not mind where a key starts.
    call = tl.arange(0, BLOCK // 4)
    i = four(4 * call, 4 * call + 1, 4 * call + 2, 4 * call + 3, BLOCK)
    high = row_words(seed, call, at, STREAM_PERMUTATION, BLOCK)
    low = row_words(seed, call, at, STREAM_TIES, BLOCK)
    LAST: tl.constexpr = (1 << 63) - 1
    key = ((high & 0x7FFFFFFF).to(tl.int64) << 32) | low.to(tl.int64)
    key = tl.where(i < count_nodes(num_nodes, at // k, n), key, LAST)
    mask = tl.full((BLOCK,), index_mask, tl.int64)
    key = tl.where(i < n, (key & ~mask) | i, LAST)
    to = tl.arange(0, BLOCK)
    tl.store(perm + at * n + to, tl.sort(key) & mask, mask=to < n)


def random_permutation(seed: Tensor, num_nodes: Tensor | None, b: int, k: int, n: int) -> Tensor:
    if seed.numel() != 1:
        raise ValueError("random_permutation: expected a seed of one element")
    check_nodes("random_permutation", num_nodes, b)
    if n > MAX_NODES:
        raise ValueError(
            f"backend 'triton': random_permutation sorts rows of at most {MAX_NODES} keys, got n = {n}; "
            "backend='reference' has no such limit"
        )
    perm = seed.new_empty(b, k, n, dtype=torch.int64)
    if perm.numel():
        block = power_of_two(n, 16)
        with on(seed):
            random_permutation_kernel[programs(b * k, "random_permutation")](
                seed, dense(num_nodes), perm, k, n, power_of_two(n) - 1, block, num_warps=_WARPS[block], **OPTIONS
            )
    return perm
