"""Product: samples of S_n x O(d), S_n x E(d) and the like."""

from __future__ import annotations

from torch import Tensor

from lps_kernels import checks
from lps_kernels.elements.base import Composition, GroupElement
from lps_kernels.elements.euclidean import Euclidean
from lps_kernels.elements.orthogonal import Orthogonal, Unitary
from lps_kernels.elements.permutation import Permutation
from lps_kernels.ops.inverse_permute_rotate_mean import run_inverse_permute_rotate
from lps_kernels.ops.permute_rotate import run_permute_rotate
from lps_kernels.ops.rows import mask_nodes


class Product(GroupElement):
    """A permutation of nodes and a motion of space for each sample; the two commute.

    An order is a pair, nodes first: (1, 1) or (1, "point") is (b, n, d, ...), (1, 0) is (b, n, ...), (2, 0) is
    (b, n, n, ...), (2, 1) is (b, n, n, d, ...), (0, 1) is (b, d, ...). The second is what the motion takes, see
    `Orthogonal` and `Euclidean`.

    >>> import torch, lps_kernels as lk
    >>> x = torch.randn(2, 5, 3)
    >>> g = lk.Product(lk.Permutation.uniform(2, 4, 5), lk.Euclidean.uniform(x, 4))
    >>> x_k = g.transform_input(x, (1, "point"))
    >>> assert torch.allclose(g.transform_output(x_k, (1, "point")), x, atol=1e-5)
    """

    _acts_on = "nodes and space"
    _fields = ("permutation", "motion")

    def __init__(self, permutation: Permutation, motion: GroupElement) -> None:
        if getattr(permutation, "_acts_on", None) != "nodes":
            raise TypeError(f"permutation: expected a Permutation, got {type(permutation).__name__}")
        if getattr(motion, "_acts_on", None) != "space":
            raise TypeError(f"motion: expected an Orthogonal or a Euclidean, got {type(motion).__name__}")
        if permutation._shape[:2] != motion._shape[:2]:
            raise ValueError(
                f"motion: expected as many inputs and samples as the permutation has, {permutation._shape[:2]}, "
                f"got {motion._shape[:2]}"
            )
        checks.same_device("motion", motion._any, permutation._any.device)
        checks.same_nodes(permutation.num_nodes, getattr(motion, "num_nodes", None))
        self._set(permutation=permutation, motion=motion)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (*self._permutation._shape, self._motion._shape[-1])

    @property
    def permutation(self) -> Permutation:
        return self._permutation

    @property
    def motion(self) -> GroupElement:
        return self._motion

    @property
    def degenerate(self) -> Tensor:
        """(b, k, d) bool, of the motion."""
        return self._motion.degenerate

    def __repr__(self) -> str:
        return f"Product({self._permutation!r}, {self._motion!r})"

    def __getitem__(self, index) -> Product:
        """Some of the samples; an int keeps the axis, with one sample."""
        return Product(self._permutation[index], self._motion[index])

    def inverse(self) -> Product:
        """The inverses of both."""
        return Product(self._permutation.inverse(), self._motion.inverse())

    def __matmul__(self, other: GroupElement) -> GroupElement:
        if not isinstance(other, Product):
            return super().__matmul__(other)
        return Product(self._permutation @ other._permutation, self._motion @ other._motion)

    def matrix(self) -> tuple[Tensor, Tensor]:
        """The matrices of both."""
        return self._permutation.matrix(), self._motion.matrix()

    def entropy(self) -> Tensor:
        """Of the permutations, see `Permutation.entropy`."""
        return self._permutation.entropy()

    def _order(self, order):
        if not isinstance(order, (tuple, list)) or len(order) != 2:
            raise ValueError(f"order: expected a pair (nodes, space) such as (1, 'point') or (2, 0), got {order!r}")
        nodes, space = order
        if not isinstance(nodes, int) or isinstance(nodes, bool) or nodes not in (0, 1, 2):
            raise ValueError(f"order: expected 0, 1 or 2 axes of nodes, got {nodes!r}")
        space = self._motion._order(space)
        return 0 if nodes == 0 and space == 0 else (nodes, space)

    def _transform_input(self, x: Tensor, order: tuple) -> Tensor:
        nodes, space = order
        if space == 0:
            return self._permutation._transform_input(x, nodes)
        self._check("x", x, 1, nodes, space)
        if nodes == 0:
            return self._unmasked._transform_input(x[:, None], space)[:, :, 0]
        if nodes == 2:
            pairs = x.shape[1:3]
            return self._permutation._each_input(
                self._unmasked._transform_input(x.flatten(1, 2), space).unflatten(2, pairs), 2
            )
        if not self._fuses:
            return self._permutation._each_input(self._motion._transform_input(x, space), 1)
        center, order = self._center(space)
        return run_permute_rotate(x, self._permutation, self._motion.q, center, order)

    def _each_input(self, x: Tensor, order: tuple) -> Tensor:
        nodes, space = order
        if space == 0:
            return self._permutation._each_input(x, nodes)
        self._check("x", x, 2, nodes, space)
        if nodes == 0:
            return self._unmasked._each_input(x[:, :, None], space)[:, :, 0]
        if nodes == 2:
            pairs = x.shape[2:4]
            return self._permutation._each_input(
                self._unmasked._each_input(x.flatten(2, 3), space).unflatten(2, pairs), 2
            )
        return self._permutation._each_input(self._motion._each_input(x, space), 1)

    def _transform_output(self, y: Tensor, order: tuple, weights: Tensor | None, reduce: str | None) -> Tensor:
        nodes, space = order
        if space == 0:
            return self._permutation._transform_output(y, nodes, weights, reduce)
        self._check("y", y, 2, nodes, space)
        if nodes == 0:
            x = self._unmasked._transform_output(y[:, :, None], space, weights, reduce)
            return x.squeeze(1 if reduce is not None else 2)
        if nodes == 1 and self._fuses:
            center, order = self._center(space)
            return run_inverse_permute_rotate(y, self._permutation, self._motion.q, center, weights, order, reduce)
        y = self._permutation._transform_output(y, nodes, None, None)
        if nodes == 2:
            pairs = y.shape[2:4]
            x = self._unmasked._transform_output(y.flatten(2, 3), space, weights, reduce)
            x = x.unflatten(1 if reduce is not None else 2, pairs)
        else:
            x = self._motion._transform_output(y, space, weights, reduce)
        if space != "point":
            return x
        each = x if reduce is None else x[:, None]  # a translation moved the padding too
        return mask_nodes(each, self._permutation.num_nodes, nodes).reshape(x.shape)

    def _check(self, name: str, x: Tensor, count: int, nodes: int, space) -> None:
        """That x has the axes of nodes and of space that its order names, behind b or b and k."""
        n, d = self._shape[2:]
        self._check_leading(name, x, count, (*[n] * nodes, *[d] * (2 if space in (2, "tensor") else 1)))

    @property
    def _fuses(self) -> bool:
        """Whether one op does both: hard permutations as they were sampled, real matrices, a center for all samples."""
        g, motion = self._permutation, self._motion
        plain = isinstance(g, Permutation) and g._hard and not g._inverted
        if not plain or isinstance(motion, (Unitary, Composition)):
            return False
        return isinstance(motion, Orthogonal) or (motion._center.shape[1] == 1 and g.num_nodes is motion.num_nodes)

    def _center(self, space) -> tuple[Tensor | None, int]:
        """The center where it counts, and the order of space as a number."""
        return self._motion._act(space) if isinstance(self._motion, Euclidean) else (None, space)

    @property
    def _unmasked(self) -> GroupElement:
        """The motion for n * n pairs, of which the permutation masks those with padding, or for what has no nodes."""
        if isinstance(self._motion, Euclidean) and self._motion.num_nodes is not None:
            return Euclidean(self._motion.q, self._motion.center)
        return self._motion
