"""What this library is compared with, at its best: dense implementations in PyTorch, with hand-written gradients.

published: the log-domain Sinkhorn of the published method, on (b, k, n, n), with the masks of padded graphs that its
    public code applies in every half iteration; `masks=False` leaves them out.
dense: the kernel built once, 2 n_iter matrix-vector products in the linear domain, and a backward that keeps only the
    iterates and forms the kernel's gradient as one product. `by_rows` takes the products graph by graph, so that each
    kernel stays in the cache; the other way is one batched product a half iteration.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

TAU, N_ITER = 0.01, 20


def published(scores: Tensor, num_nodes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """scores (b, k, n) -> the straight-through matrix and the relaxed one, (b, k, n, n): P[perm[r], r] = 1."""
    pair = None
    if num_nodes is not None:
        valid, pair = _valid(num_nodes, scores.shape[-1])
        scores = scores.masked_fill(~valid, 0)
    s = scores / scores.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-6)
    if pair is None:
        t, perm = s.sort(-1, descending=True)
    else:
        t, perm = s.masked_fill(~valid, float("-inf")).sort(dim=-1, descending=True, stable=True)
        t = t.masked_fill(~valid, 0)
    log_p = (s[..., :, None] - t[..., None, :]).abs() / -TAU
    for _ in range(N_ITER):
        for axis in (-1, -2):
            if pair is not None:
                log_p = torch.where(pair, log_p, float("-inf"))
            log_p = log_p - log_p.logsumexp(axis, keepdim=True)
            if pair is not None:
                log_p = torch.where(log_p.isfinite(), log_p, float("-inf"))
    soft = log_p.exp()
    hard = torch.zeros_like(soft).scatter(-2, perm[..., None, :], 1)
    if pair is not None:
        hard = hard * pair
    return (hard - soft).detach() + soft, soft


def _valid(num_nodes: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Which nodes are real, (b, 1, n), and which pairs of them, (b, 1, n, n)."""
    valid = torch.arange(n, device=num_nodes.device) < num_nodes[:, None, None]
    return valid, valid[..., :, None] & valid[..., None, :]


def published_entropy(soft: Tensor, num_nodes: Tensor | None = None) -> Tensor:
    """The penalty, a scalar, from the relaxed matrices (b, k, n, n)."""
    p, pair = soft.clamp(min=1e-12), None
    if num_nodes is not None:
        _, pair = _valid(num_nodes, soft.shape[-1])
        p = torch.where(pair, p, soft)
    total = 0.0
    for axis in (-2, -1):
        q = p / p.sum(axis, keepdim=True).clamp(min=1e-12)
        if pair is not None:
            q = torch.where(pair, q, 1)
        total = total - (q * q.log()).sum(axis)
    return total.mean() if num_nodes is None else (total.mean(1).sum(1) / num_nodes).mean()


def published_step(scores: Tensor, x: Tensor, y_k: Tensor, num_nodes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Nodes in (b, k, n, c), nodes out (b, n, c) and entropy, by matrix products."""
    matrix, soft = published(scores, num_nodes)
    return matrix.mT @ x[:, None], (matrix @ y_k).mean(1), published_entropy(soft, num_nodes)


class DenseSinkhorn(torch.autograd.Function):
    """Sorted scores t (rows, n) -> P (rows, n, n) in sorted coordinates, where the hard one is the identity."""

    @staticmethod
    def forward(ctx, t: Tensor, by_rows: bool) -> Tensor:
        difference = t[:, :, None] - t[:, None, :]
        kernel = (difference.abs() / -TAU).exp_()
        iterates = _iterate_rows(kernel) if by_rows else _iterate_batch(kernel)
        p = iterates[-2][..., None] * kernel * iterates[-1][:, None]
        ctx.save_for_backward(difference, kernel, iterates, p)
        ctx.by_rows = by_rows
        return p

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        difference, kernel, iterates, p = ctx.saved_tensors
        g = p * grad
        rho, kappa = g.sum(-1), g.sum(-2)
        adjoint = _adjoint_rows if ctx.by_rows else _adjoint_batch
        q = adjoint(kernel, iterates, rho, kappa)
        # All of the kernel's gradient at once: dK = -Q^T X.
        d_kernel = torch.bmm(q.permute(1, 2, 0), iterates[:-1].permute(1, 0, 2))
        signed = (g - kernel * d_kernel) * difference.sign()
        return (signed.sum(-2) - signed.sum(-1)) / TAU, None


def _iterate_batch(kernel: Tensor) -> Tensor:
    """The iterates x_0 = 1, x_{m+1} = 1 / (K x_m), (2 n_iter + 1, rows, n)."""
    x = [torch.ones_like(kernel[:, 0])]
    for _ in range(2 * N_ITER):
        x.append(torch.bmm(kernel, x[-1][..., None])[..., 0].reciprocal())
    return torch.stack(x)


def _adjoint_batch(kernel: Tensor, x: Tensor, rho: Tensor, kappa: Tensor) -> Tensor:
    """q_m = x_{m+1} a_{m+1} for every m, where a_m = -x_m (K q_m) is the adjoint of log x_m."""
    a, q = kappa, []
    for m in range(2 * N_ITER - 1, -1, -1):
        q.append(x[m + 1] * a)
        a = -x[m] * torch.bmm(kernel, q[-1][..., None])[..., 0]
        if m == 2 * N_ITER - 1:
            a = a + rho
    return torch.stack(q[::-1])


# Operators, so that torch.compile fuses what is around them and leaves their loops alone.
@torch.library.custom_op("benchmarks::iterate_rows", mutates_args=())
def _iterate_rows(kernel: Tensor) -> Tensor:
    x = kernel.new_ones(2 * N_ITER + 1, *kernel.shape[:2])
    for i, k in enumerate(kernel.unbind()):
        steps = x[:, i].unbind()
        for before, after in itertools.pairwise(steps):
            torch.reciprocal(torch.mv(k, before), out=after)
    return x


_iterate_rows.register_fake(lambda kernel: kernel.new_empty(2 * N_ITER + 1, *kernel.shape[:2]))


@torch.library.custom_op("benchmarks::adjoint_rows", mutates_args=())
def _adjoint_rows(kernel: Tensor, x: Tensor, rho: Tensor, kappa: Tensor) -> Tensor:
    q = torch.empty_like(x[1:])
    for i, k in enumerate(kernel.unbind()):
        steps, out, a, minus = x[:, i].unbind(), q[:, i].unbind(), kappa[i], rho[i]
        for m in range(2 * N_ITER - 1, -1, -1):
            torch.mul(steps[m + 1], a, out=out[m])
            a = torch.mv(k, out[m]).mul_(steps[m]).neg_()
            if m == 2 * N_ITER - 1:
                a += minus
    return q


_adjoint_rows.register_fake(lambda kernel, x, rho, kappa: torch.empty_like(x[1:]))


class Gathered(torch.autograd.Function):
    """A straight-through product with P in sorted coordinates: x itself, and the dense gradient as one product."""

    @staticmethod
    def forward(ctx, x: Tensor, p: Tensor, transpose: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.transpose = transpose
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (x,) = ctx.saved_tensors
        left, right = (x, grad) if ctx.transpose else (grad, x)
        return grad, torch.bmm(left, right.mT), None


class DenseEntropy(torch.autograd.Function):
    """P (rows, n, n) -> the entropy of rows plus that of columns, (rows, n)."""

    @staticmethod
    def forward(ctx, p: Tensor) -> Tensor:
        log_p = p.clamp(min=1e-38).log_()
        plogp = p * log_p
        sums, means = [], []
        for axis in (-1, -2):
            sums.append(p.sum(axis))
            means.append(plogp.sum(axis) / sums[-1])
        ctx.save_for_backward(log_p, *sums, *means)
        return sums[0].log() - means[0] + sums[1].log() - means[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        log_p, sum_rows, sum_columns, mean_rows, mean_columns = ctx.saved_tensors
        rows, columns = grad / sum_rows, grad / sum_columns
        weight = rows[:, :, None] + columns[:, None, :]
        constant = (rows * mean_rows)[:, :, None] + (columns * mean_columns)[:, None, :]
        return torch.addcmul(constant, weight, log_p, value=-1)


def dense_step(scores: Tensor, x: Tensor, y_k: Tensor, by_rows: bool = False) -> tuple[Tensor, ...]:
    """The same as `published_step`, for graphs without padding."""
    b, k, n = scores.shape
    z = scores.reshape(b * k, n)
    s = z / z.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-6)
    t, perm = s.sort(-1, descending=True)
    p = DenseSinkhorn.apply(t, by_rows)
    index = perm[..., None].expand(b * k, n, x.shape[-1])
    x_rows = x[:, None].expand(b, k, *x.shape[1:]).reshape(b * k, n, -1)
    x_k = Gathered.apply(x_rows.gather(1, index), p, True)
    y = Gathered.apply(y_k.reshape(b * k, n, -1), p, False)
    y = torch.zeros_like(y).scatter(1, index, y)
    return x_k.view(b, k, n, -1), y.view(b, k, n, -1).mean(1), DenseEntropy.apply(p).sum() / (b * k * n)


def dense_matrix(scores: Tensor) -> Tensor:
    """scores (b, k, n) -> the straight-through matrix (b, k, n, n), from the fastest dense Sinkhorn."""
    b, k, n = scores.shape
    z = scores.reshape(b * k, n)
    t, perm = (z / z.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-6)).sort(-1, descending=True)
    p = DenseSinkhorn.apply(t, True)
    p = (torch.eye(n, device=p.device) - p).detach() + p
    return p.gather(-2, perm.argsort(-1)[..., None].expand(b * k, n, n)).view(b, k, n, n)


def edge_einsum(edges: Tensor, matrix: Tensor) -> Tensor:
    """P^T A P for edges (b, n, n, c) and matrices (b, k, n, n), as the published method takes it."""
    return torch.einsum("bkir,bijc,bkjs->bkrsc", matrix, edges, matrix)


def edge_matmul(edges: Tensor, matrix: Tensor) -> Tensor:
    """The same as two plain matrix products, with the channels folded into columns."""
    b, n, _, c = edges.shape
    k = matrix.shape[1]
    left = matrix.mT @ edges.reshape(b, 1, n, n * c)
    columns = left.view(b, k, n, n, c).transpose(-2, -3).reshape(b, k, n, n * c)  # (j, r, c)
    return (matrix.mT @ columns).view(b, k, n, n, c).transpose(-2, -3)


def published_gram_schmidt(v: Tensor) -> Tensor:
    """Orthonormal columns of v (b, 3, 3) with the published code's steps: noise against dependent columns, projections
    on columns that get their length last, all in a buffer."""
    v = v + 1e-6 * torch.randn_like(v)
    columns = torch.zeros_like(v)
    for j in range(v.shape[-1]):
        column = v[..., j].clone()
        along = torch.zeros_like(column)
        for i in range(j):
            u = columns[..., i].clone()
            along = along + (column * u).sum(-1, keepdim=True) / (u * u).sum(-1, keepdim=True) * u
        columns[..., j] = column - along
    return torch.nn.functional.normalize(columns, dim=-2)


def eager_gram_schmidt(v: Tensor) -> Tensor:
    """Orthonormal columns of v (..., d, d) in as few steps as eager PyTorch allows: each projected once on those
    before."""
    columns: list[Tensor] = []
    for j in range(v.shape[-1]):
        u = v[..., j]
        for q in columns:
            u = u - (u * q).sum(-1, keepdim=True) * q
        columns.append(u / u.norm(dim=-1, keepdim=True))
    return torch.stack(columns, -1)
