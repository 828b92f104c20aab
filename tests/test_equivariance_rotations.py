"""phi(h x) = h phi(x): exactly where the samples are transported, for every group and order, and by group averages."""

import math

import pytest
import torch
from torch import Tensor

import lps_kernels as lk

B, K, N, D = 2, 3, 5, 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def haar(k: int, d: int = D, special: bool = False, seed: int = 1) -> Tensor:
    return lk.gram_schmidt(random(B, k, d, d, seed=seed), special)


def elements(group: str, k: int, seed: int, special: bool = False):
    """k elements a graph; for k = 1 one that moves the input."""
    q = haar(k, special=special, seed=seed)
    permutation = lk.Permutation.uniform(B, k, N, generator=torch.Generator().manual_seed(seed))
    motion = lk.Euclidean.from_matrix(q, random(B, k, D, seed=seed + 1))
    return {
        "O": lambda: lk.Orthogonal.from_matrix(q),
        "E": lambda: motion,
        "U": lambda: lk.Unitary.from_vectors(torch.complex(random(B, k, D, D, seed=seed), random(B, k, D, D, seed=7))),
        "S": lambda: permutation,
        "S x O": lambda: lk.Product(permutation, lk.Orthogonal.from_matrix(q)),
        "S x E": lambda: lk.Product(permutation, motion),
    }[group]()


def repeat(g, k: int):
    return g[0] if k == 1 else torch.utils._pytree.tree_map(lambda x: x.expand(-1, k, *x.shape[2:]), g)


SHAPES = {
    0: (4,),
    1: (N, D),
    2: (N, D, D),
    "scalar": (4,),
    "vector": (N, D, 2),
    "point": (N, D),
    "tensor": (N, D, D),
    (0, 0): (4,),
    (1, 0): (N, 4),
    (2, 0): (N, N, 2),
    (1, 1): (N, D, 2),
    (1, 2): (N, D, D),
    (2, 1): (N, N, D),
    (2, 2): (N, N, D, D),
    (0, 1): (D, 2),
    (1, "point"): (N, D),
    (1, "vector"): (N, D),
    (2, "vector"): (N, N, D),
    (0, "vector"): (D,),
}
ORDERS = {
    "O": [0, 1, 2, "vector", "tensor"],
    "U": [0, 1, 2],
    "E": [0, 1, 2, "scalar", "vector", "point", "tensor"],
    "S x O": [(0, 0), (1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2), (0, 1)],
    "S x E": [(1, 0), (2, 0), (1, "point"), (1, "vector"), (2, "vector"), (0, "vector"), (1, 2)],
}
CASES = [(group, order) for group, orders in ORDERS.items() for order in orders]


def generic(shape_in: tuple, shape_out: tuple, complex_: bool):
    """A function without any symmetry."""
    count_in, count_out = torch.Size(shape_in).numel(), torch.Size(shape_out).numel()
    first, second = random(count_in, 16, seed=11) / 4, random(16, count_out, seed=12)
    if complex_:
        first, second = first.to(torch.complex128), second.to(torch.complex128)
    return lambda x: ((x.reshape(len(x), -1) @ first).tanh() @ second).reshape(len(x), *shape_out)


@pytest.mark.parametrize(("group", "order_out"), CASES)
@pytest.mark.parametrize("which", [0, 1])
def test_is_equivariant_with_transported_samples(group: str, order_out, which: int) -> None:
    complex_ = group == "U"
    order_in = {"O": (1, 2), "U": (1, 2), "E": ("point", 1), "S x O": ((1, 1), (2, 0)), "S x E": ((1, 1), (2, 0))}
    order_in = order_in[group][which]
    x = random(B, *SHAPES[order_in])
    x = torch.complex(x, random(*x.shape, seed=5)) if complex_ else x
    g, h = elements(group, K, seed=20), elements(group, 1, seed=40)
    f = generic(SHAPES[order_in], SHAPES[order_out], complex_)
    y = lk.symmetrize(f, x, g, order_in, order_out)
    moved = h.transform_output(x[:, None], order_in)
    transported = repeat(h, K) @ g
    found = lk.symmetrize(f, moved, transported, order_in, order_out)
    assert torch.allclose(found, h.transform_output(y[:, None], order_out))
    assert not torch.allclose(found, y) or order_out in (0, "scalar", (0, 0))


@pytest.mark.parametrize("group", ["O", "E", "U", "S x O", "S x E"])
def test_inverse_undoes(group: str) -> None:
    g, order = elements(group, K, seed=3), (1, 1) if "x" in group else 1
    x = random(B, *SHAPES[order])
    x = x.to(torch.complex128) if group == "U" else x
    x_k = g.transform_input(x, order)
    assert torch.allclose(g.transform_output(x_k, order), x)
    assert torch.allclose(
        g.inverse().transform_output(g.transform_output(x_k, order, reduce=None), order, reduce=None), x_k
    )
    back = (g @ g.inverse()).transform_input(x, order)
    assert torch.allclose(back, x[:, None].expand(back.shape))


def test_matrix_is_what_acts() -> None:
    x = random(B, N, D)
    g = elements("E", K, seed=3)
    homogeneous = torch.cat((x, torch.ones(B, N, 1)), -1)
    acted = torch.einsum("bkij,bnj->bkni", g.inverse().matrix(), homogeneous.double())[..., :D]
    assert torch.allclose(g.transform_input(x, "point"), acted)
    o = elements("O", K, seed=3)
    assert torch.allclose(o.transform_input(x), torch.einsum("bkji,bnj->bkni", o.matrix(), x))


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("kind", [lk.Orthogonal, lk.Euclidean])
def test_frame_averaging_is_equivariant(kind: type, special: bool) -> None:
    x, f = random(B, N, D), generic((N, D), (N, D), False)
    h = elements("E" if kind is lk.Euclidean else "O", 1, seed=5, special=special)
    moved = h.transform_output(x[:, None], 1)
    frames, moved_frames = kind.from_frames(x, special=special), kind.from_frames(moved, special=special)
    assert len(frames) == (4 if special else 8) and not frames.degenerate.any()
    assert torch.allclose(torch.linalg.det(frames.q).abs(), torch.ones(()).double())
    if kind is lk.Orthogonal:  # a frame of O(d) sees no translation, but centers to find its axes
        x, moved = x - x.mean(1, keepdim=True), moved - moved.mean(1, keepdim=True)
    y, z = lk.symmetrize(f, x, frames, 1, 1), lk.symmetrize(f, moved, moved_frames, 1, 1)
    assert torch.allclose(z, h.transform_output(y[:, None], 1))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_frames_do_not_depend_on_the_scale(scale: float) -> None:
    x = random(B, N, 3).float()
    g, h = lk.Orthogonal.from_frames(x), lk.Orthogonal.from_frames(x * scale)
    assert torch.allclose(g.q.abs(), h.q.abs(), atol=1e-3) and not h.degenerate.any()


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_cloud_without_axes_is_flagged(value: float) -> None:
    x = random(2, N, 3).float()
    x[0] = value
    g = lk.Orthogonal.from_frames(x)
    assert g.degenerate[0].all() and not g.degenerate[1].any()
    assert torch.allclose((g.q.mT @ g.q), torch.eye(3).expand(2, 8, 3, 3), atol=1e-5)


def test_frames_of_a_symmetric_cloud_are_flagged() -> None:
    square = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]])
    g = lk.Orthogonal.from_frames(square)
    assert g.degenerate.all() and torch.allclose(g.q.mT @ g.q, torch.eye(2), atol=1e-6)


@pytest.mark.parametrize("group", ["C_n", "D_n", "S_n"])
def test_finite_groups_are_averaged_exactly(group: str) -> None:
    x, f = random(B, 4, 2), generic((4, 2), (4, 2), False)
    g = lk.Permutation.all_of(group, B, 4)
    assert len(g) == {"C_n": 4, "D_n": 8, "S_n": 24}[group]
    y = lk.symmetrize(f, x, g, 1, 1)
    for i in range(len(g)):
        moved = g[i].transform_output(x[:, None])
        assert torch.allclose(lk.symmetrize(f, moved, g, 1, 1), g[i].transform_output(y[:, None]))


@pytest.mark.parametrize("group", ["C_1", "C_5", "D_4"])
def test_plane_groups_are_averaged_exactly(group: str) -> None:
    x, f = random(B, 4, 2), generic((4, 2), (4, 2), False)
    g = lk.Orthogonal.all_of(group, B, dtype=torch.float64)
    y = lk.symmetrize(f, x, g, 1, 1)
    for i in range(len(g)):
        moved = g[i].transform_output(x[:, None])
        assert torch.allclose(lk.symmetrize(f, moved, g, 1, 1), g[i].transform_output(y[:, None]))


def test_canonical_order_is_invariant() -> None:
    x = random(B, N, 2).round()  # with ties in the first column
    h = lk.Permutation.uniform(B, 1, N)
    moved = h.transform_output(x[:, None])
    sorted_ = lk.Permutation.from_sort(x).transform_input(x)
    assert torch.equal(sorted_, lk.Permutation.from_sort(moved).transform_input(moved))
    assert (sorted_[:, 0, :-1, 0] >= sorted_[:, 0, 1:, 0]).all()
    g = lk.Permutation.from_sort(x, num_nodes=torch.tensor([3, 0]))
    assert torch.equal(g.perm[0, 0, 3:], torch.tensor([3, 4])) and torch.equal(g.perm[1, 0], torch.arange(5))


NETS = [
    ("O(3)", 1, 1),
    ("SO(3)", 1, "tensor"),
    ("E(3)", "point", "point"),
    ("SE(3)", "point", "vector"),
    ("SE(3)", 1, 0),
    ("S_n x O(3)", (1, 1), (1, 1)),
    ("S_n x SE(3)", (1, "point"), (1, "point")),
    ("S_n", 1, 1),
    ("C_n", 1, 0),
    ("D_n", 1, 1),
]


@pytest.mark.parametrize(("name", "order_in", "order_out"), NETS)
def test_named_groups_are_equivariant_in_expectation(name: str, order_in, order_out) -> None:
    torch.manual_seed(0)
    shapes = {**SHAPES, "vector": (N, D), 1: (N, D), (1, 1): (N, D)}
    x, f = random(1, N, D), generic(shapes[order_in], shapes[order_out], False)
    net = lk.Symmetrized(f, name, order_in, order_out, n_samples=60000)
    h = net.sample(x, 1)[0]
    y, z = net(x), net(h.transform_output(x[:, None], order_in))
    spread = f(net.sample(x, 1000).transform_input(x, order_in).flatten(0, 1)).std()
    assert (z - h.transform_output(y[:, None], order_out)).abs().max() < 8 * spread / 60000**0.5 * 1.5


def test_u2_by_name() -> None:
    x = torch.complex(random(B, N, 2), random(B, N, 2, seed=1))
    net = lk.Symmetrized(lambda x: x * x.abs(), "U(2)", 1, 1, n_samples=4)
    assert net(x).shape == x.shape and net(x).is_complex()
    for dtype in (torch.float16, torch.bfloat16):
        assert net(x.real.to(dtype)).dtype == torch.complex64


def test_unknown_groups_raise() -> None:
    for name in ("O", "SU(2)", "O(3) x S_n", "S_n x S_n", "S_n x O(3) x O(3)", ""):
        with pytest.raises(ValueError, match="distribution: expected a callable or one of"):
            lk.Symmetrized(torch.nn.Identity(), name)


def test_gradients_reach_the_vectors() -> None:
    v, x = random(B, K, D, D).requires_grad_(), random(B, N, D).requires_grad_()
    g = lk.Product(lk.Permutation.from_scores(s := random(B, K, N).requires_grad_()), lk.Euclidean.from_vectors(v, x))
    lk.symmetrize(generic((N, D), (N, D), False), x, g, (1, "point"), (1, "vector")).square().sum().backward()
    assert all(t.grad.abs().sum() > 0 and t.grad.isfinite().all() for t in (v, x, s))
