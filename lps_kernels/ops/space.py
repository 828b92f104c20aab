"""Features with space axes behind the nodes, as the rotation ops want them: (..., n, d, c) or (..., n, d, d, c)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lps_kernels.ops.features import complex_of


def has_nodes(x: Tensor, leading: int, order: int) -> bool:
    """Whether an axis of nodes comes before the space axes: always, but for a bare (..., d) or (..., d, d)."""
    return x.dim() > leading + order


def flatten(x: Tensor, leading: int, order: int, unitary: bool = False) -> Tensor:
    """(leading..., n, d, c), or two axes d: n is 1 where there are no nodes, trailing axes become one of channels.

    Complex features of real rotations are two channels. unitary: complex d become 2 d real ones, on which a unitary
    matrix acts as `real_matrix` of it does; a tensor becomes the real form of a matrix.
    """
    if not has_nodes(x, leading, order):
        x = x.unsqueeze(leading)
    trailing = x.dim() - leading - 1 - order
    if trailing < 2 and not unitary and not x.is_complex():
        return x if trailing else x.unsqueeze(-1)
    lead, space = x.shape[: leading + 1], x.shape[leading + 1 : leading + 1 + order]
    channels = math.prod(x.shape[leading + 1 + order :])
    if not unitary:
        if x.is_complex():
            x, channels = torch.view_as_real(x.resolve_conj()), 2 * channels
        return x.reshape(*lead, *space, channels)
    if channels == 1:  # a number's two parts lie as they should
        x = x.reshape(*lead, *space)
        x = torch.view_as_real(x.resolve_conj()).flatten(-2) if order == 1 else real_matrix(x)
        return x.unsqueeze(-1)
    x = x.reshape(*lead, *space, channels)
    if order == 1:
        return torch.stack((x.real, x.imag), -2).flatten(-3, -2)
    return real_matrix(x.movedim(-1, 0)).movedim(0, -1)


def unflatten(y: Tensor, x: Tensor, leading: int, order: int, unitary: bool = False) -> Tensor:
    """Undo `flatten(x, leading, order)` on a result whose leading axes may be others."""
    trailing = x.dim() - leading - has_nodes(x, leading, order) - order
    if trailing < 2 and not unitary and not x.is_complex():
        y = y if trailing else y.squeeze(-1)
        return y if has_nodes(x, leading, order) else y.squeeze(y.dim() - trailing - order - 1)
    d = y.shape[-2]
    lead = y.shape[: y.dim() - 1 - order]
    tail = x.shape[leading + has_nodes(x, leading, order) + order :]
    if unitary:
        d //= 2
        y = y.unflatten(-2, (d, 2))
        if order == 2:
            y = y[..., 0, :].unflatten(-3, (d, 2)).movedim(-3, -2)  # the first column holds re and im
        if order == 1 and y.shape[-1] == 1:
            y = complex_of(y.squeeze(-1)).unsqueeze(-1)
        else:
            y = torch.complex(y[..., 0, :], y[..., 1, :])
        y = y.reshape(*lead, *[d] * order, *tail)
    elif x.is_complex():
        y = complex_of(y.reshape(*lead, *[d] * order, *tail, 2))
    else:
        y = y.reshape(*lead, *[d] * order, *tail)
    return y if has_nodes(x, leading, order) else y.squeeze(len(lead) - 1)


def real_matrix(q: Tensor) -> Tensor:
    """Complex matrices (..., d, d) as real ones of twice the size, [[re, -im], [im, re]] an entry."""
    q = q.conj()
    return torch.view_as_real(torch.stack((q, 1j * q), -2)).flatten(-2).flatten(-3, -2)
