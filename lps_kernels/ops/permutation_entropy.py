"""permutation_entropy: how far the relaxed permutation matrices are from permutation matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.op import op
from lps_kernels.ops.rows import valid_nodes


@op(outputs=("entropy",), differentiable=("t", "row", "col"))
def permutation_entropy(t: Tensor, row: Tensor, col: Tensor, num_nodes: Tensor | None, tau: float) -> Tensor:
    """t, row, col (b, k, n) -> (b,): mean over samples and nodes of the entropy of a row plus that of a column.

    Each row and column of P is normalized to one first, so that the entropy of columns depends on row alone and that
    of rows on col alone. In nats. A graph without nodes, and a row whose scores were not finite, count zero.
    Source: Kim et al., NeurIPS 2023, the published permutation-matrix penalty, without its clamp at 1e-12.
    """
    b, k, n = t.shape
    valid = valid_nodes(num_nodes, n, t.device)
    log_kernel = (t[..., :, None] - t[..., None, :]).abs() / -tau
    total = _entropies(log_kernel, row, valid) + _entropies(log_kernel, col, valid)
    nodes = torch.full((b,), n, device=t.device) if num_nodes is None else num_nodes
    return total.sum((1, 2)) / (nodes.clamp(max=n).clamp(min=1) * max(k, 1))


def _entropies(log_kernel: Tensor, w: Tensor, valid: Tensor) -> Tensor:
    """(b, k, n): entropy over j of K[i, j] w[j] / sum_j K[i, j] w[j]."""
    alive = valid & (w > 0)
    log_w = torch.where(alive, w, 1).log()
    logits = log_kernel + log_w[..., None, :]
    pair = alive[..., :, None] & alive[..., None, :] & log_kernel.isfinite()  # further apart than numbers reach: zero
    log_q = torch.where(pair, logits, float("-inf"))
    log_q = torch.where(alive[..., :, None], log_q, 0).log_softmax(-1)
    plogp = torch.where(pair, log_q.exp() * torch.where(pair, log_q, 0), 0)
    return -plogp.sum(-1)
