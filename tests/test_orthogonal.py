"""Orthogonal, Unitary and Euclidean as objects: made, indexed, moved, printed, in pytrees; what they raise."""

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import lps_kernels as lk

B, K, N, D = 2, 4, 5, 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MADE = {
    "vectors": lambda: lk.Orthogonal.from_vectors(random(B, K, D, D)),
    "uniform": lambda: lk.Orthogonal.uniform(B, K, D, special=True),
    "identity": lambda: lk.Orthogonal.identity(B, K, D),
    "frames": lambda: lk.Orthogonal.from_frames(random(B, N, D))[:K],
    "unitary": lambda: lk.Unitary.uniform(B, K, D),
    "unitary identity": lambda: lk.Unitary.identity(B, K, D),
    "euclidean": lambda: lk.Euclidean.from_vectors(random(B, K, D, D), random(B, N, D)),
    "euclidean uniform": lambda: lk.Euclidean.uniform(random(B, N, D), K, special=True),
    "euclidean identity": lambda: lk.Euclidean.identity(B, K, D),
    "euclidean frames": lambda: lk.Euclidean.from_frames(random(B, N, D))[:K],
    "padded": lambda: lk.Euclidean.uniform(random(B, N, D), K, num_nodes=torch.tensor([3, 5])),
}


@pytest.mark.parametrize("made", MADE)
def test_is_a_light_immutable_pytree(made: str) -> None:
    g = MADE[made]()
    assert len(g) == g.n_samples == K and g.batch_size == B
    assert g.degenerate.shape == (B, K, D) and g.degenerate.dtype == torch.bool
    leaves, spec = pytree.tree_flatten(g)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    assert torch.equal(pytree.tree_unflatten(leaves, spec).q, g.q)
    with pytest.raises(AttributeError, match="immutable"):
        g.q = None
    assert f"b={B}, k={K}, d={D}" in repr(g)
    assert not g.detach().q.requires_grad
    wide = g.to(torch.float64)
    assert wide.q.dtype in (torch.float64, torch.complex128) and wide.degenerate.dtype == torch.bool
    assert torch.equal(g[1].q, g.q[:, 1:2]) and torch.equal(g[-1].q, g.q[:, -1:]) and len(g[::2]) == 2
    with pytest.raises(IndexError, match="sample 4 of 4"):
        g[K]
    with pytest.raises(TypeError, match="index: expected"):
        g["a"]


@pytest.mark.parametrize("made", MADE)
def test_is_a_group_element(made: str) -> None:
    g = MADE[made]().to(torch.float64)
    unit = torch.eye(g.matrix().shape[-1], dtype=g.q.dtype).expand_as(g.matrix())
    assert torch.allclose((g @ g.inverse()).matrix(), unit, atol=1e-6)
    assert torch.allclose((g @ g).matrix(), g.matrix() @ g.matrix(), atol=1e-6)
    if "identity" in made:
        assert torch.allclose(g.matrix(), unit)


def test_degenerate_marks_what_vectors_left_open() -> None:
    v = random(B, K, D, D)
    v[0, 1, :, 2] = v[0, 1, :, 0]
    v[1, 2] = float("nan")
    g = lk.Orthogonal.from_vectors(v)
    expected = torch.zeros(B, K, D, dtype=torch.bool)
    expected[0, 1, 2] = expected[1, 2] = True
    assert torch.equal(g.degenerate, expected) and g.q.isfinite().all()
    assert torch.equal(lk.Euclidean.from_vectors(v, random(B, N, D)).degenerate, expected)


def test_seeds_rule() -> None:
    draw = lambda: lk.Orthogonal.uniform(B, K, D, generator=torch.Generator().manual_seed(3)).q  # noqa: E731
    assert torch.equal(draw(), draw())
    torch.manual_seed(0)
    first = lk.Unitary.uniform(B, K, D).q
    torch.manual_seed(0)
    assert torch.equal(first, lk.Unitary.uniform(B, K, D).q)
    assert lk.Orthogonal.uniform(B, K, D, dtype=torch.float64).q.dtype == torch.float64


def test_centroid_is_over_real_nodes() -> None:
    x, nodes = random(3, N, D), torch.tensor([3, 5, 0])
    x[0, 3:] = float("nan")
    g = lk.Euclidean.uniform(x, K, num_nodes=nodes)
    assert torch.allclose(g.center[0, 2], x[0, :3].mean(0)) and torch.allclose(g.center[1, 0], x[1].mean(0))
    assert (g.center[2] == 0).all()
    x_k = g.transform_input(x, "point")
    assert x_k.isfinite().all() and (x_k[0, :, 3:] == 0).all() and (x_k[2] == 0).all()


def test_euclidean_times_orthogonal() -> None:
    g, h = MADE["euclidean"](), MADE["vectors"]()
    assert torch.allclose((g @ h).q, g.q @ h.q) and torch.allclose((g @ h).center, g.center)
    both = h @ g
    assert isinstance(both, lk.Euclidean)
    y = random(B, K, N, D, seed=3)
    for order in (1, "point", "vector"):
        one_by_one = h.transform_output(g.transform_output(y, order, reduce=None), order)
        assert torch.allclose(both.transform_output(y, order), one_by_one, atol=1e-5)


def test_conjugate_views_are_as_good_as_copies() -> None:
    v, x = (torch.complex(random(*s), random(*s, seed=1)) for s in ((B, K, D, D), (B, N, D)))
    assert torch.equal(lk.Unitary.from_vectors(v.mH).q, lk.Unitary.from_vectors(v.mH.resolve_conj()).q)
    assert torch.equal(lk.gram_schmidt(v.conj()), lk.gram_schmidt(v.conj().resolve_conj()))
    g = lk.Permutation.uniform(B, K, N)
    assert torch.equal(g.transform_input(x.conj()), g.transform_input(x.conj().resolve_conj()))


def test_to_keeps_complex_matrices_complex() -> None:
    g = lk.Product(lk.Permutation.uniform(B, K, N), lk.Unitary.uniform(B, K, D))
    assert g.to(torch.float64).motion.q.dtype == g.to(torch.complex128).motion.q.dtype == torch.complex128
    assert MADE["vectors"]().to(torch.complex128).q.dtype == torch.float64
    with pytest.raises(TypeError, match="dtype: expected"):
        g.to(torch.int64)


def test_half_precision_features_keep_their_dtype() -> None:
    g, x = MADE["euclidean"](), random(B, N, D).bfloat16()
    x_k = g.transform_input(x, "point")
    assert x_k.dtype == torch.bfloat16
    assert torch.allclose(g.transform_output(x_k, "point").float(), x.float(), atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert g.transform_input(x.float()).dtype == torch.float32
        assert lk.Orthogonal.from_vectors(random(B, K, D, D)).q.dtype == torch.float32


def test_sample_rotate_is_one_after_the_other() -> None:
    v, x, nodes = random(B, K, D, D), random(B, N, D, seed=1), torch.tensor([5, 2])
    for center in (True, False):
        found = []
        for fused in (True, False):
            leaves = [v.double().requires_grad_(), x.double().requires_grad_()]
            if fused:
                g, x_k = lk.sample_rotate(*leaves, center=center, num_nodes=nodes)
            elif center:
                g = lk.Euclidean.from_vectors(leaves[0], leaves[1], num_nodes=nodes)
                x_k = g.transform_input(leaves[1], "point")
            else:
                g = lk.Orthogonal.from_vectors(leaves[0])
                x_k = lk.rotate(leaves[1], g.q, num_nodes=nodes)
            loss = x_k.sin().sum() + g.q.exp().sum() + (g.center.square().sum() if center else 0)
            found.append([x_k, *torch.autograd.grad(loss, leaves)])
        for one, other in zip(*found):
            assert torch.allclose(one, other)


def test_sample_rotate_draws_haar_by_the_seed() -> None:
    x = random(B, N, D)
    torch.manual_seed(1)
    g, x_k = lk.sample_rotate(None, x, k=K, special=True)
    torch.manual_seed(1)
    h = lk.Euclidean.uniform(x, K, special=True)
    assert torch.equal(g.q, h.q) and torch.allclose(x_k, h.transform_input(x, "point"), atol=1e-6)


VECTORS = torch.zeros(B, K, D, D)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lk.Orthogonal.from_vectors(torch.zeros(2, 3, 3)), ValueError, "v: expected shape"),
        (lambda: lk.Orthogonal.from_vectors(torch.zeros(2, 1, 3, 2)), ValueError, "v: expected square"),
        (lambda: lk.Orthogonal.from_vectors(torch.zeros(2, 0, 3, 3)), ValueError, "k: expected at least one"),
        (lambda: lk.Orthogonal.from_vectors(torch.zeros(2, 1, 3, 3).long()), TypeError, "v: expected float16"),
        (lambda: lk.Unitary.from_vectors(torch.zeros(2, 1, 3, 3)), TypeError, "v: expected complex64"),
        (lambda: lk.Orthogonal.from_matrix(torch.ones(2, 1, 3, 3)), ValueError, r"q: .* an error of 3 at \[0, 0\]"),
        (lambda: lk.Orthogonal.uniform(2, 0, 3), ValueError, "k: expected at least one"),
        (lambda: lk.Orthogonal.uniform(-1, 1, 3), ValueError, "b: expected 0 or more"),
        (lambda: lk.Orthogonal.uniform(2, 1.0, 3), TypeError, "k: expected an int"),
        (lambda: lk.Orthogonal.uniform(2, 1, 3, dtype=torch.int64), TypeError, "dtype: expected a floating"),
        (lambda: lk.Orthogonal.all_of("C_3", 2, dtype=torch.int64), TypeError, "dtype: expected a floating"),
        (lambda: lk.Orthogonal.uniform(2, 1, 3, dtype="float32"), TypeError, "dtype: expected a floating"),
        (lambda: lk.Orthogonal.from_frames(torch.zeros(B, N, D), special="no"), TypeError, "special: expected a bool"),
        (lambda: lk.Orthogonal.uniform(2, 1, 3, special=1), TypeError, "special: expected a bool"),
        (lambda: lk.Orthogonal.uniform(2, 1, 3, generator=1), TypeError, "generator: expected a torch.Generator"),
        (lambda: lk.sample_rotate(None, torch.zeros(B, N, D), k=2.0), TypeError, "k: expected an int"),
        (lambda: lk.sample_rotate(None, torch.zeros(B, N, D), k=2, center=None), TypeError, "center: expected a bool"),
        (lambda: lk.Orthogonal.all_of(3, 2), ValueError, "group: expected 'C_m' or 'D_m'"),
        (lambda: lk.Orthogonal.all_of("C_x", 2), ValueError, "group: expected 'C_m' or 'D_m'"),
        (lambda: lk.Permutation.all_of("S_n", 2, 7), ValueError, "n <= 6"),
        (lambda: lk.Permutation.all_of("Q_n", 2, 7), ValueError, "group: expected 'C_n', 'D_n' or 'S_n'"),
        (lambda: lk.Euclidean.uniform(torch.zeros(2, 3), 1), ValueError, "points: expected shape"),
        (lambda: lk.Euclidean.from_vectors(VECTORS, torch.zeros(B + 1, N, D)), ValueError, "points: expected shape"),
        (lambda: lk.Euclidean.from_vectors(VECTORS, torch.zeros(B, N, 2)), ValueError, "points: expected shape"),
        (lambda: lk.Euclidean.from_vectors(VECTORS, VECTORS[:, 0].to("meta")), ValueError, "points: .* on cpu"),
        (lambda: MADE["euclidean"]().transform_input(torch.zeros(B, N, D), "spin"), ValueError, "order: expected one"),
        (lambda: MADE["vectors"]().transform_input(torch.zeros(B, N, D), "spin"), ValueError, "order: expected 1 or 2"),
        (lambda: MADE["vectors"]() @ MADE["vectors"]()[:1], ValueError, "@: expected elements of the same shape"),
        (lambda: lk.sample_rotate(None, torch.zeros(B, N, D)), ValueError, "k: expected the number"),
        (lambda: lk.sample_rotate(torch.zeros(B, K, 2, 2), torch.zeros(B, N, D)), ValueError, "v: expected shape"),
    ],
)
def test_bad_arguments_raise(call, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("special", [False, True])
def test_frames_of_space_without_axes_are_one(special: bool) -> None:
    assert lk.Orthogonal.from_frames(torch.zeros(B, N, 0), special=special).q.shape == (B, 1, 0, 0)
