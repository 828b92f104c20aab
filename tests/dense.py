"""An independent, dense straight-through permutation: matrices, log-domain Sinkhorn, einsum. It shares no code with the
library but takes its perm, which fixes the order within ties."""

import torch

NEVER = float("-inf")


def valid_mask(num_nodes, b, n):
    """(b, 1, n) bool: the real nodes."""
    nodes = torch.full((b,), n) if num_nodes is None else num_nodes
    return torch.arange(n) < nodes[:, None, None]


def log_soft_permutation(scores, perm, num_nodes, tau, n_iter, normalize):
    """(b, k, n, n): log of P_soft[node, rank]; minus infinity at padding."""
    b, _, n = scores.shape
    valid = valid_mask(num_nodes, b, n)
    z = torch.where(valid, scores, 0)
    s = z / z.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt() if normalize else z
    t = s.gather(-1, perm)
    pair = valid[..., :, None] & valid[..., None, :]
    log_p = -(s[..., :, None] - t[..., None, :]).abs() / tau
    log_p = _isolate(log_p, pair)
    for _ in range(n_iter):
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
        log_p = log_p - log_p.logsumexp(-2, keepdim=True)
    return log_p.masked_fill(~pair, NEVER)


def _isolate(log_p, pair):
    """Each padding entry a node of its own, so that no sum is empty."""
    alone = torch.eye(log_p.shape[-1], dtype=torch.bool) & ~pair
    return log_p.masked_fill(~pair, NEVER).masked_fill(alone, 0)


def hard_permutation(perm, num_nodes, dtype):
    b, _, n = perm.shape
    p = torch.nn.functional.one_hot(perm, n).mT.to(dtype) if n else perm.new_zeros(*perm.shape, 0, dtype=dtype)
    return p * valid_mask(num_nodes, b, n)[..., None, :]


def permutation(log_p, perm, num_nodes, hard):
    """P with the values of the hard permutation and the gradient of the soft one, or the soft one."""
    soft = log_p.exp()
    if not hard:
        return soft
    return hard_permutation(perm, num_nodes, soft.dtype) + (soft - soft.detach())


def entropy(log_p, num_nodes):
    """The penalty: entropies of rows and of columns, each normalized first, averaged over graphs, samples, nodes."""
    b, k, n = log_p.shape[:3]
    valid = valid_mask(num_nodes, b, n)
    pair = valid[..., :, None] & valid[..., None, :]
    total = log_p.new_zeros(b)
    for axis in (-1, -2):
        log_q = torch.where(pair, log_p - _isolate(log_p, pair).logsumexp(axis, keepdim=True), 0)
        total = total - torch.where(pair, log_q.exp() * log_q, 0).sum((1, 2, 3))
    nodes = torch.full((b,), n) if num_nodes is None else num_nodes
    return (total / (nodes.clamp(min=1) * k)).sum() / max(b, 1)


def nodes_in(p, x):
    """x (b, n, c) -> P^T x, (b, k, n, c)."""
    return torch.einsum("bkij,bic->bkjc", p, x)


def edges_in(p, a):
    """a (b, n, n, c) -> P^T a P, (b, k, n, n, c)."""
    return torch.einsum("bkpjc,bkjq->bkpqc", torch.einsum("bkip,bijc->bkpjc", p, a), p)


def nodes_out(p, y, weights):
    """y (b, k, n, c) -> the mean over samples of P y."""
    return _mean(torch.einsum("bkij,bkjc->bkic", p, y), weights)


def edges_out(p, y, weights):
    """y (b, k, n, n, c) -> the mean over samples of P y P^T."""
    return _mean(torch.einsum("bkiqc,bkjq->bkijc", torch.einsum("bkip,bkpqc->bkiqc", p, y), p), weights)


def _mean(y, weights):
    if weights is None:
        return y.mean(1)
    return torch.einsum("bk,bk...->b...", weights / weights.sum(1, keepdim=True), y)
