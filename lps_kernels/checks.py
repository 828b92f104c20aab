"""Errors that a user sees: every argument of a public function is checked here before any kernel runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from lps_kernels.op import full_precision

_check_finite = False


def check_finite(enabled: bool) -> None:
    """Whether scores with NaN or inf raise, naming the first bad row. Off by default: it waits for the device.

    Scores in a trace (torch.compile, torch.export), under a torch.func transform or on "meta" have no values to see.

    >>> import torch, lps_kernels as lk
    >>> lk.check_finite(True)
    >>> try:
    ...     lk.softsort(torch.tensor([[[0.0, float("nan")]]]))
    ... except ValueError as error:
    ...     assert "row [0, 0]" in str(error)
    >>> lk.check_finite(False)
    """
    global _check_finite
    _check_finite = bool(enabled)


def _readable(x: Tensor) -> bool:
    """Whether looking at values costs nothing: not on an accelerator, in a trace or under a transform."""
    return x.device.type == "cpu" and _has_values(x)


def _has_values(x: Tensor) -> bool:
    return (
        not x.is_meta
        and not torch.compiler.is_compiling()
        and type(x) is Tensor
        and not torch._C._are_functorch_transforms_active()
    )


def tensor(name: str, x: Tensor, dims: str) -> None:
    """A dense tensor whose axes are spelt in `dims`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor {dims}, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {x.layout}")
    wanted = dims.count(",") + (not dims.endswith(",)"))
    if x.dim() != wanted:
        raise ValueError(f"{name}: expected shape {dims}, got {tuple(x.shape)}")


FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def floating(name: str, x: Tensor) -> None:
    if x.dtype not in FLOATING:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")


def flags(**given: bool) -> None:
    for name, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")


def floating_dtype(dtype: torch.dtype) -> None:
    if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"dtype: expected a floating or complex one, got {dtype!r}")


def same_device(name: str, x: Tensor, device: torch.device) -> None:
    if x.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {x.device}")


def num_nodes(x: Tensor | None, b: int, n: int, device: torch.device) -> None:
    """(b,) int64 on the device, each between 0 and n. On accelerators the values are not looked at, but clamped."""
    if x is None:
        return
    tensor("num_nodes", x, "(b,)")
    if x.dtype != torch.int64:
        raise TypeError(f"num_nodes: expected int64, got {x.dtype}")
    if x.shape[0] != b:
        raise ValueError(f"num_nodes: expected shape ({b},), got {tuple(x.shape)}")
    same_device("num_nodes", x, device)
    if _readable(x) and b:
        values = x.tolist()
        if min(values) < 0 or max(values) > n:
            bad = next(i for i, v in enumerate(values) if not 0 <= v <= n)
            raise ValueError(f"num_nodes: expected values from 0 to n = {n}, got {values[bad]} at {bad}")


def same_nodes(a: Tensor | None, b: Tensor | None) -> None:
    """That two parts of an element count the same nodes, where both count; values are looked at on CPU only."""
    if a is None or b is None or a is b or not (_readable(a) and _readable(b)):
        return
    if not torch.equal(a, b):
        raise ValueError(f"num_nodes: expected the same of both parts, got {a.tolist()} and {b.tolist()}")


def samples(k: int) -> None:
    if not isinstance(k, (Integral, torch.SymInt)):
        raise TypeError(f"k: expected an int, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"k: expected at least one sample, got {k}")


def scores(x: Tensor, nodes: Tensor | None) -> None:
    tensor("scores", x, "(b, k, n)")
    floating("scores", x)
    samples(x.shape[1])
    num_nodes(nodes, x.shape[0], x.shape[2], x.device)
    if _check_finite and _has_values(x):
        bad = ~x.detach().isfinite()
        if nodes is not None:
            bad &= torch.arange(x.shape[2], device=x.device) < nodes[:, None, None]
        rows = bad.any(-1).nonzero()
        if rows.numel():
            raise ValueError(f"scores: expected finite values, got NaN or inf in row {rows[0].tolist()} of (b, k)")


def temperature(tau: float, n_iter: int = 0) -> None:
    if isinstance(tau, bool) or not isinstance(tau, Real):
        raise TypeError(f"tau: expected a number, got {type(tau).__name__}")
    if not 0 < tau < math.inf:  # and not math.isfinite, which torch.compile can't ask of a dynamic number
        raise ValueError(f"tau: expected a positive, finite number, got {tau}")
    if isinstance(n_iter, bool) or not isinstance(n_iter, int):
        raise TypeError(f"n_iter: expected an int, got {type(n_iter).__name__}")
    if n_iter < 0:
        raise ValueError(f"n_iter: expected 0 or more iterations, got {n_iter}")


def permutation(perm: Tensor, nodes: Tensor | None) -> None:
    """(b, k, n) int64; each row a bijection that leaves padding in place, which is looked at on CPU only."""
    tensor("perm", perm, "(b, k, n)")
    if perm.dtype != torch.int64:
        raise TypeError(f"perm: expected int64, got {perm.dtype}")
    b, k, n = perm.shape
    samples(k)
    num_nodes(nodes, b, n, perm.device)
    if not _readable(perm) or not perm.numel():
        return
    low, high = perm.aminmax()
    if low < 0 or high >= n:
        raise ValueError(f"perm: expected values from 0 to n - 1 = {n - 1}, got {int(low)} to {int(high)}")
    seen = torch.zeros_like(perm, dtype=torch.bool).scatter_(-1, perm, True)
    if not seen.all():
        row = (~seen.all(-1)).nonzero()[0].tolist()
        raise ValueError(f"perm: expected each row to be a bijection, got one that is not in row {row} of (b, k)")
    if nodes is not None:
        index = torch.arange(n, device=perm.device)
        moved = ((perm != index) & (index >= nodes[:, None, None])).any(-1).nonzero()
        if moved.numel():
            row = moved[0].tolist()
            raise ValueError(f"perm: expected padding to stay in place, got it moved in row {row} of (b, k)")


def soft(parts: tuple | None, perm: Tensor) -> None:
    if parts is None:
        return
    if not isinstance(parts, tuple) or len(parts) != 4:
        raise TypeError(f"soft: expected the result of softsort, got {type(parts).__name__}")
    for name, x in zip(("t", "row", "col"), parts[1:]):
        tensor(f"soft.{name}", x, "(b, k, n)")
        floating(f"soft.{name}", x)
        same_device(f"soft.{name}", x, perm.device)
        if x.shape != perm.shape:
            raise ValueError(f"soft.{name}: expected shape {tuple(perm.shape)}, got {tuple(x.shape)}")


def features(
    name: str, x: Tensor, leading: Sequence[int], order: int, n: int, device: torch.device, floating: bool = False
) -> None:
    """(*leading, n, ...) for order 1, (*leading, n, n, ...) for order 2."""
    if not isinstance(order, int) or isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order: expected 1 or 2, got {order!r}")
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {x.layout}")
    wanted = (*leading, *[n] * order)
    if tuple(x.shape[: len(wanted)]) != wanted:
        spelt = ", ".join(map(str, wanted))
        raise ValueError(f"{name}: expected shape ({spelt}, ...), got {tuple(x.shape)}")
    same_device(name, x, device)
    if floating and x.dtype not in FLOATING:
        raise TypeError(f"{name}: expected floating point features, got {x.dtype}")


def weights(w: Tensor | None, y: Tensor, reduce: str | None) -> Tensor | None:
    """The weights (b, k) of a mean over samples of y (b, k, ...), summing to one, in the dtype of the sum."""
    if reduce not in ("mean", None):
        raise ValueError(f"reduce: expected 'mean' or None, got {reduce!r}")
    if reduce == "mean" and not (y.dtype in FLOATING or y.is_complex()):
        raise TypeError(f"y: expected floating point features to average, got {y.dtype}; reduce=None keeps samples")
    if w is None:
        return None
    if reduce is None:
        raise ValueError("weights: expected none where reduce=None keeps the samples")
    tensor("weights", w, "(b, k)")
    floating("weights", w)
    if w.shape != y.shape[:2]:
        raise ValueError(f"weights: expected shape {tuple(y.shape[:2])}, got {tuple(w.shape)}")
    same_device("weights", w, y.device)
    w = w.to(torch.float64 if y.dtype in (torch.float64, torch.complex128) else torch.float32)
    return w / w.sum(1, keepdim=True)


def vectors(v: Tensor, special: bool) -> None:
    """(..., d, m) with m <= d, floating or complex."""
    if not isinstance(v, Tensor):
        raise TypeError(f"v: expected a tensor (..., d, m), got {type(v).__name__}")
    if v.layout != torch.strided:
        raise TypeError(f"v: expected a dense tensor, got layout {v.layout}")
    if v.dim() < 2:
        raise ValueError(f"v: expected shape (..., d, m), got {tuple(v.shape)}")
    if v.dtype not in (torch.complex64, torch.complex128):
        floating("v", v)
    d, m = v.shape[-2:]
    if m > d:
        raise ValueError(f"v: expected no more than d = {d} columns, got {m}")
    flags(special=special)
    if special and m != d:
        raise ValueError(f"special: expected square matrices for a determinant of 1, got {d} x {m}")
    if special and v.is_complex():
        raise ValueError("special: expected real vectors, got complex ones")


def rotations(q: Tensor) -> None:
    """(b, k, d, d), floating or complex; that it is orthogonal is the caller's word."""
    tensor("q", q, "(b, k, d, d)")
    if q.dtype not in (torch.complex64, torch.complex128):
        floating("q", q)
    if q.shape[-1] != q.shape[-2]:
        raise ValueError(f"q: expected square matrices (b, k, d, d), got {tuple(q.shape)}")
    samples(q.shape[1])


def center(x: Tensor | None, q: Tensor, order: int) -> Tensor | None:
    """(b, d) or (b, 1 or k, d), as (b, 1 or k, d)."""
    if x is None:
        return None
    if not isinstance(x, Tensor):
        raise TypeError(f"center: expected a tensor (b, d), got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"center: expected a dense tensor, got layout {x.layout}")
    if order != 1:
        raise ValueError("center: expected none for tensors of order 2, which a translation does not move")
    b, k, d = q.shape[:3]
    x = x[:, None] if x.dim() == 2 else x
    if x.dim() != 3 or x.shape[0] != b or x.shape[1] not in (1, k) or x.shape[2] != d:
        raise ValueError(f"center: expected shape ({b}, {d}) or ({b}, {k}, {d}), got {tuple(x.shape)}")
    same_device("center", x, q.device)
    return x


def space(name: str, x: Tensor, leading: Sequence[int], order: int, q: Tensor) -> None:
    """(*leading, n, d, ...) or (*leading, d) for order 1, with two axes d for order 2; floating or complex."""
    if not isinstance(order, int) or isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order: expected 1 or 2, got {order!r}")
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {x.layout}")
    if x.dtype not in (torch.complex64, torch.complex128):
        floating(name, x)
    count, d = len(leading), q.shape[-1]
    start = count + (x.dim() > count + order)
    axes = x.shape[start : start + order]
    if tuple(x.shape[:count]) != tuple(leading) or len(axes) != order or any(size != d for size in axes):
        lead, axis = ", ".join(map(str, leading)), ", ".join([str(d)] * order)
        raise ValueError(f"{name}: expected shape ({lead}, n, {axis}, ...) or ({lead}, {axis}), got {tuple(x.shape)}")
    same_device(name, x, q.device)


def orthogonal(q: Tensor) -> None:
    """That q^H q is 1 to 1e-3, or to four roundings of q's dtype, on CPU only."""
    if not _readable(q) or not q.numel():
        return
    wide = q.detach().to(torch.promote_types(q.dtype, torch.float32))
    square = full_precision(q.device.type, torch.matmul, wide.mH, wide)
    error = (square - torch.eye(q.shape[-1], dtype=wide.dtype, device=q.device)).abs().amax((-1, -2))
    bad = (~(error <= max(1e-3, 4 * torch.finfo(q.dtype).eps))).nonzero()
    if bad.numel():
        row = bad[0].tolist()
        raise ValueError(f"q: expected orthonormal columns, got an error of {error[tuple(row)]:.2g} at {row} of (b, k)")
