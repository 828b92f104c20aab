"""What every group element is: an immutable holder of tensors that acts on inputs and outputs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lps_kernels import checks
from lps_kernels.op import full_precision

# dtype.to_real(), which torch.compile does not know.
_REAL = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


class GroupElement:
    """k samples of a group element for each of b inputs; subclasses say how one sample acts.

    A subclass names its constructor's arguments, in order, in `_fields`; they are its state.
    """

    _fields: tuple[str, ...] = ()
    _acts_on: str  # "nodes", "space" or both
    _is_node: tuple[bool, ...] = ()  # of the fields, where a pytree's leaves may be anything: vmap puts numbers there

    def __init_subclass__(cls) -> None:
        pytree.register_pytree_node(
            cls,
            lambda g: cls._flatten(g),
            lambda values, context: cls._unflatten(values, context),
            serialized_type_name=f"lps_kernels.{cls.__name__}",
            to_dumpable_context=lambda context: context,
            from_dumpable_context=lambda context: tuple(map(tuple, context)),  # lists, once saved
            flatten_with_keys_fn=lambda g: g._flatten_with_keys(),
        )

    def _flatten(self) -> tuple[list, tuple]:
        state = [getattr(self, f"_{name}") for name in self._fields]
        is_node = self._is_node or [isinstance(value, (Tensor, GroupElement)) for value in state]
        nodes = [value for value, node in zip(state, is_node) if node]
        return nodes, tuple((node, None if node else value) for value, node in zip(state, is_node))

    def _flatten_with_keys(self) -> tuple[list, tuple]:
        nodes, context = self._flatten()
        names = [f"_{name}" for name, (node, _) in zip(self._fields, context) if node]
        return list(zip(map(pytree.GetAttrKey, names), nodes)), context

    @classmethod
    def _unflatten(cls, nodes, context):
        nodes = iter(nodes)
        g = object.__new__(cls)
        for name, (node, value) in zip(cls._fields, context):
            object.__setattr__(g, f"_{name}", next(nodes) if node else value)
        object.__setattr__(g, "_is_node", tuple(node for node, _ in context))
        return g

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable, can't set {name!r}")

    def _set(self, **state) -> None:
        for name, value in state.items():
            object.__setattr__(self, f"_{name}", value)

    def _map(self, function: Callable[[Tensor], Tensor]):
        """The same element with a function applied to each of its tensors."""
        return pytree.tree_map_only(Tensor, function, self)

    def detach(self):
        """The same element without gradients."""
        return self._map(Tensor.detach)

    def to(self, *args, **kwargs):
        """The same element on another device or with another floating dtype; complex ones stay so, and integers."""
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is None:
            return self._map(lambda x: x.to(device, None, non_blocking))
        checks.floating_dtype(dtype)
        wide = torch.complex128 if dtype in (torch.float64, torch.complex128) else torch.complex64
        real = _REAL.get(dtype, dtype)

        def cast(x: Tensor) -> Tensor:
            kind = wide if x.is_complex() else real if x.is_floating_point() else None
            return x.to(device, kind, non_blocking)

        return self._map(cast)

    @property
    def _any(self) -> Tensor:
        """The first of the tensors, whose device is that of all."""
        first = getattr(self, f"_{self._fields[0]}")
        return first if isinstance(first, Tensor) else first._any

    @property
    def batch_size(self) -> int:
        return self._shape[0]

    @property
    def n_samples(self) -> int:
        return self._shape[1]

    def __len__(self) -> int:
        return self._shape[1]

    def __matmul__(self, other: GroupElement) -> GroupElement:
        """The product, sample by sample: (g @ h) acts on outputs as h, then g."""
        if not isinstance(other, GroupElement):
            return NotImplemented
        return Composition(self, other)

    def transform_input(self, x: Tensor, order=1) -> Tensor:
        """g^-1 x for every sample: (b, ...) -> (b, k, ...)."""
        order = self._order(order)
        if order == 0:
            self._check_leading("x", x, 1)
            samples = x[:, None].expand(x.shape[0], self.n_samples, *x.shape[1:])
            return samples.clone(memory_format=torch.contiguous_format)  # f may write to what it gets
        return self._transform_input(x, order)

    def transform_output(
        self, y: Tensor, order=1, weights: Tensor | None = None, reduce: str | None = "mean"
    ) -> Tensor:
        """g y for every sample and the mean over them: (b, k, ...) -> (b, ...), or (b, k, ...) for reduce=None.

        weights (b, k) make it a weighted mean; they are divided by their sum.
        """
        order = self._order(order)
        if order == 0:
            self._check_leading("y", y, 2)
            return self._mean(y, weights, reduce)
        return self._transform_output(y, order, weights, reduce)

    def _order(self, order):
        """An order as the subclass wants it; 0 where the group does not act."""
        return order

    def _samples(self, index: int | slice | Tensor | list[int]) -> slice | Tensor | list[int]:
        """Some of the samples, at least one, as what a tensor's axis takes; an int keeps the axis, with one sample."""
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            index = index.nonzero()[:, 0] if index.shape == (len(self),) else index
        if isinstance(index, (slice, list)) or (isinstance(index, Tensor) and index.dim() == 1):
            if not (range(len(self))[index] if isinstance(index, slice) else len(index)):
                raise IndexError(f"index: expected at least one of {len(self)} samples, got none by {index}")
            return index
        try:
            index = operator.index(index)
        except TypeError:
            got = f"a tensor {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"index: expected an int, a slice or a list or tensor (k,) of samples, got {got}") from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return slice(index % len(self), index % len(self) + 1)

    def _check_leading(self, name: str, x: Tensor, count: int, axes: tuple[int, ...] = ()) -> None:
        wanted = (*self._shape[:count], *axes)
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
        if tuple(x.shape[: len(wanted)]) != wanted:
            raise ValueError(f"{name}: expected shape ({', '.join(map(str, wanted))}, ...), got {tuple(x.shape)}")

    def _mean(self, y: Tensor, weights: Tensor | None, reduce: str | None) -> Tensor:
        weights = checks.weights(weights, y, reduce)
        if reduce is None:
            return y
        if weights is None:
            return y.mean(1)
        return (y * weights.view(*weights.shape, *[1] * (y.dim() - 2))).sum(1).to(y.dtype)


class Composition(GroupElement):
    """The product of two elements, kept as both, so that the gradients of both stay exact."""

    _fields = ("left", "right")

    def __init__(self, left: GroupElement, right: GroupElement) -> None:
        if left._acts_on != right._acts_on:
            raise TypeError(f"@: expected two that act on {left._acts_on}, got {left!r} and {right!r}")
        if left._shape != right._shape:
            raise ValueError(f"@: expected elements of the same shape, got {left._shape} and {right._shape}")
        checks.same_device("@", right._any, left._any.device)
        checks.same_nodes(getattr(left, "num_nodes", None), getattr(right, "num_nodes", None))
        self._set(left=left, right=right)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._left._shape

    @property
    def _acts_on(self) -> str:
        return self._left._acts_on

    @property
    def perm(self) -> Tensor:
        """Of permutations: (b, k, n) int64, the node that the product places at each rank."""
        return self._left.perm.gather(-1, self._right.perm)

    @property
    def num_nodes(self) -> Tensor | None:
        """Of permutations and motions with padding: (b,)."""
        nodes = [getattr(g, "num_nodes", None) for g in (self._left, self._right)]
        return nodes[1] if nodes[0] is None else nodes[0]

    def entropy(self) -> Tensor:
        """Of permutations: the sum of both factors' penalties, see `Permutation.entropy`."""
        return self._left.entropy() + self._right.entropy()

    def _order(self, order):
        left, right = self._left._order(order), self._right._order(order)
        if left != right:  # 1 moves points in one group and vectors in the other, for example
            raise ValueError(f"order: expected one that both factors take as the same, got {order!r} for {self!r}")
        return left

    def __getitem__(self, index) -> Composition:
        return Composition(self._left[index], self._right[index])

    def __repr__(self) -> str:
        return f"{self._left!r} @ {self._right!r}"

    def inverse(self) -> Composition:
        return Composition(self._right.inverse(), self._left.inverse())

    def matrix(self) -> Tensor:
        left, right = self._left.matrix(), self._right.matrix()
        dtype = torch.promote_types(left.dtype, right.dtype)  # that of one without scores is only the default
        return multiply(left.to(dtype), right.to(dtype))

    def _transform_input(self, x: Tensor, order) -> Tensor:
        return self._right._each_input(self._left._transform_input(x, order), order)

    def _each_input(self, x: Tensor, order) -> Tensor:
        return self._right._each_input(self._left._each_input(x, order), order)

    def _transform_output(self, y: Tensor, order, weights: Tensor | None, reduce: str | None) -> Tensor:
        return self._left._transform_output(self._right._transform_output(y, order, None, None), order, weights, reduce)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, in full precision under autocast too."""
    return full_precision(a.device.type, torch.matmul, a, b)


def check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, (Integral, torch.SymInt)):
            raise TypeError(f"{name}: expected an int, got {type(size).__name__}")
        if size < 0:
            raise ValueError(f"{name}: expected 0 or more, got {size}")
