"""inverse_rotate_mean: a block of nodes of every sample is turned back and added up in registers."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.inverse import inverse_of, inverses_here, share
from lps_kernels.triton.inverse_rotate_gradients import inverse_rotate_gradients
from lps_kernels.triton.launch import OPTIONS, cdiv, check_gradient, dense, mean_of_none, nothing, on, programs
from lps_kernels.triton.lines import order_of
from lps_kernels.triton.rotations import (
    apply_matrix,
    lanes_of,
    load_matrix,
    load_vectors,
    moved,
    nodes_of,
    ordered,
    shifted,
    store_vectors,
    transposed,
)
from lps_kernels.triton.rotations_large import turn_back, turn_back_backward
from lps_kernels.triton.sort import inverse
from lps_kernels.triton.space import SAMPLES, SMALL, space_of

# By d, order, bytes of a number, whether nodes are permuted and whether a program holds them all. Told nothing, ptxas
# takes 128 or 168 and spills 8 to 32 bytes, each on one architecture or more.
_REGISTERS = {
    (3, 1, 2, False, False): {"maxnreg": 144},
    (3, 1, 4, True, True): {"maxnreg": 120},
    (3, 1, 8, True, False): {"maxnreg": 128},
    (3, 1, 8, True, True): {"maxnreg": 144},
}
if torch.version.hip:
    _REGISTERS = {}


@entry(do_not_specialize=["n", "k", "blocks", "groups", "chunks", "centers"])
def inverse_rotate_mean_kernel(
    x, y, q, center, perm, inverses, num_nodes, weights, n, k, c, blocks, groups, chunks, centers,
    MEAN: tl.constexpr, D: tl.constexpr, ORDER: tl.constexpr, LANES: tl.constexpr, PADDED: tl.constexpr,
    DIRECT: tl.constexpr, THREADS: tl.constexpr, SKEW: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """MEAN: all samples of an input's blocks, else the samples of a chunk, each for itself. R: see `Space.ranks`."""
    COUNT: tl.constexpr = D if ORDER == 1 else D * D
    dtype: tl.constexpr = q.dtype.element_ty
    group, item = tl.program_id(0) % groups, tl.program_id(0) // groups
    chunk, b = item % chunks, (item // chunks).to(tl.int64)
    count, row_size = nodes_of(num_nodes, b, n), n.to(tl.int64) * c * COUNT
    samples = tl.cdiv(k, chunks)
    start, stop = chunk * samples, tl.minimum((chunk + 1) * samples, k)
    if inverses is not None:
        inv = inverses_here(perm, inverses, b * k + start, stop - start, n, samples, LANES)
    for block in range(group, blocks, groups):
        first, per, node, channel = lanes_of(block, c, LANES, DIRECT)
        total = ()
        for _ in tl.static_range(COUNT):
            total = total + (tl.zeros((LANES,), dtype),)
        for sample in range(start, stop):
            row = b * k + sample
            at = y + row * row_size
            if inverses is None:
                v = load_vectors(at, first, per, node, channel, count, c, dtype, COUNT, PADDED, LANES, DIRECT, SKEW)
                if R:
                    order = inverse(order_of(perm + row * n, n, R), R)
                    v = moved(v, order, node, channel, c, node < count)
            else:
                rank = ordered(inv + (sample - start) * n, node, n, count)
                v = load_vectors(at, first, per, rank, channel, count, c, dtype, COUNT, PADDED, LANES, True, False)
            m = load_matrix(q + row * D * D, D, LANES, THREADS)
            v = apply_matrix(transposed(m, D), v, D, ORDER)
            if center is not None:
                v = shifted(v, center + (b * centers + sample % centers) * D, node < count, D, 1.0, LANES, THREADS)
            if MEAN:
                w = 1.0
                if weights is not None:
                    w = tl.load(weights + row)
                added = ()
                for e in tl.static_range(COUNT):
                    added = added + (total[e] + w * v[e],)
                total = added
            else:
                at = x + row * row_size
                store_vectors(at, v, first, per, node, channel, count, n, c, COUNT, PADDED, LANES, DIRECT, SKEW)
        if MEAN:
            if weights is None:
                each = tl.full((LANES,), 1.0, dtype) / k.to(dtype)
                mean = ()
                for e in tl.static_range(COUNT):
                    mean = mean + (total[e] * each,)
                total = mean
            at = x + b * row_size
            store_vectors(at, total, first, per, node, channel, count, n, c, COUNT, PADDED, LANES, DIRECT, SKEW)


def inverse_rotate_mean(
    y: Tensor,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    order: int,
    mean: bool,
) -> Tensor:
    return launch_inverse("inverse_rotate_mean", y, None, q, center, num_nodes, weights, order, mean)


def inverse_rotate_mean_backward(
    grad_x: Tensor | None,
    y: Tensor,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    order: int,
    mean: bool,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    name, need = "inverse_rotate_mean_backward", [bool(needs >> i & 1) for i in range(4)]
    return launch_inverse_backward(name, grad_x, y, None, q, center, num_nodes, weights, order, mean, need)


def launch_inverse(
    name: str,
    y: Tensor,
    perm: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    order: int,
    mean: bool,
) -> Tensor:
    """q y + center, in order of nodes where perm (b, k, n) permuted them, and the mean."""
    y, perm, q, center, num_nodes, weights = map(dense, (y, perm, q, center, num_nodes, weights))
    s = space_of(name, y, q, center, num_nodes, order, True)
    check_weights(name, weights, q)
    x = torch.empty(s.shape(not mean), dtype=y.dtype, device=y.device)
    if not x.numel():
        return x
    if not s.k:
        return mean_of_none(x, weights)
    with on(y):
        if s.d > SMALL:
            order = None if perm is None else inverse_of(perm)
            turn_back(s, x, y, q, center, order, num_nodes, weights, mean)
            return x
        permuted = perm is not None
        chunks, blocks = 1 if mean else cdiv(s.k, SAMPLES), s.blocks(permuted)
        groups, inverses = blocks, None
        if permuted and not s.whole(permuted):
            width, rows = s.node * y.element_size(), cdiv(s.k, chunks)
            groups, perm, inverses = share(perm, s.b * chunks, blocks, width, rows)
        registers = _REGISTERS.get((s.d, s.order, y.element_size(), permuted, s.whole(permuted)), {})
        inverse_rotate_mean_kernel[programs(s.b * chunks * groups, name)](
            x, y, q, center, perm, inverses, num_nodes, weights, s.n, s.k, s.c, blocks, groups, chunks,
            max(s.centers, 1), MEAN=mean, R=s.ranks(permuted), **s.lanes(y.element_size(), permuted), **OPTIONS,
            **registers,
        )  # fmt: skip
    return x


def check_weights(name: str, weights: Tensor | None, q: Tensor) -> None:
    if weights is not None and (weights.shape != q.shape[:2] or weights.dtype != q.dtype):
        raise ValueError(f"{name}: expected weights {tuple(q.shape[:2])} in {q.dtype}, got {tuple(weights.shape)}")


def launch_inverse_backward(
    name: str,
    grad_x: Tensor | None,
    y: Tensor,
    perm: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    order: int,
    mean: bool,
    need: list[bool],
    wide: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of y, q, center and weights; perm (b, k, n) where nodes were permuted. wide: that of y as computed."""
    if grad_x is None:
        raise ValueError(f"{name}: expected a gradient")
    grad_x, y, perm, q, center, num_nodes, weights = map(dense, (grad_x, y, perm, q, center, num_nodes, weights))
    s = space_of(name, y, q, center, num_nodes, order, True)
    check_weights(name, weights, q)
    check_gradient(name, grad_x, s.shape(not mean), y.dtype)
    need_y, need_q = need[0], need[1]
    need_center, need_weights = need[2] and center is not None, need[3] and weights is not None
    grad_y = torch.empty_like(y, dtype=q.dtype if wide else y.dtype) if need_y else nothing(y)
    grad_q = torch.empty_like(q) if need_q else nothing(y)
    grad_center = torch.empty_like(center) if need_center else nothing(y)
    grad_weights = torch.empty_like(weights) if need_weights else nothing(y)
    results = grad_y, grad_q, grad_center, grad_weights
    if not y.numel():
        return tuple(r.zero_() for r in results)
    with on(y):
        if s.d > SMALL:
            turn_back_backward(s, grad_x, y, q, center, perm, num_nodes, weights, mean, *results)
            return results
        inverse_rotate_gradients(s, results, grad_x, y, perm, q, center, num_nodes, weights if mean else None, mean)
    return results
