"""What all group elements share: checkpoints, samples by index, the default device and dtype, complex features."""

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import lps_kernels as lk

B, K, N, D = 2, 3, 6, 3
NODES = torch.tensor([6, 4])


def points(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, N, D, generator=torch.Generator().manual_seed(0), dtype=dtype)


def scores() -> Tensor:
    return torch.randn(B, K, N, generator=torch.Generator().manual_seed(1)).requires_grad_()


MADE = {
    "permutation": lambda: (lk.Permutation.from_scores(scores(), num_nodes=NODES), 1),
    "composition": lambda: (lk.Permutation.from_scores(scores()) @ lk.Permutation.from_scores(scores()), 1),
    "orthogonal": lambda: (lk.Orthogonal.uniform(B, K, D), 1),
    "euclidean": lambda: (lk.Euclidean.uniform(points(), K, num_nodes=NODES), "point"),
    "unitary": lambda: (lk.Unitary.uniform(B, K, D), 1),
    "product": lambda: (lk.Product(lk.Permutation.uniform(B, K, N), lk.Orthogonal.uniform(B, K, D)), (1, 1)),
}
EACH = pytest.mark.parametrize("made", MADE)


@EACH
def test_checkpoints_load_by_default(made: str, tmp_path) -> None:
    g, order = MADE[made]()
    torch.save({"g": g.detach()}, tmp_path / "g.pt")
    h, x = torch.load(tmp_path / "g.pt")["g"], points().to(torch.complex64)
    assert torch.equal(h.transform_input(x, order), g.transform_input(x, order))


@EACH
@pytest.mark.parametrize("index", [slice(K, None), [], torch.zeros(0, dtype=torch.int64), torch.zeros(K) > 1])
def test_no_samples_at_all_are_an_error(made: str, index) -> None:
    with pytest.raises(IndexError, match="at least one of 3 samples"):
        MADE[made]()[0][index]


@EACH
def test_a_mask_takes_samples(made: str) -> None:
    (g, order), x = MADE[made](), points().to(torch.complex64)
    h = g[torch.tensor([True, False, True])]
    assert len(h) == 2 and torch.equal(h.transform_input(x, order), g.transform_input(x, order)[:, [0, 2]])


def test_a_mask_of_another_length_is_an_error() -> None:
    with pytest.raises(IndexError):
        lk.Permutation.identity(B, K, N)[torch.ones(K + 1) > 0]


def test_the_default_device_is_that_of_no_argument_given() -> None:
    x, nodes = points(), NODES
    q, perm = torch.eye(D).expand(B, K, D, D), torch.arange(N).expand(B, K, N)
    with torch.device("meta"):
        made = [
            lk.Orthogonal.from_frames(x, nodes, special=True),
            lk.Orthogonal.from_matrix(q),
            lk.Euclidean.from_frames(x),
            lk.Orthogonal.all_of("D_4", B, device="cpu"),
            lk.Permutation.all_of("S_n", B, 3, device="cpu"),
            lk.Permutation.all_of("C_n", B, 3, device="cpu"),
            lk.Permutation.from_indices(perm, num_nodes=nodes),
        ]
        assert lk.Permutation.all_of("D_n", B, 3).perm.is_meta and lk.Orthogonal.all_of("C_3", B).q.is_meta
    assert all(g.matrix().device.type == "cpu" for g in made)


def test_unitary_matrices_have_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert lk.Unitary.identity(B, K, D).q.dtype == lk.Unitary.uniform(B, K, D).q.dtype == torch.complex128
    finally:
        torch.set_default_dtype(torch.float32)


def test_motions_move_the_real_part_of_complex_points_alone() -> None:
    x = torch.complex(points(torch.float64), 2 + points(torch.float64).flip(1))
    motion = lk.Euclidean.uniform(x.real, K)
    both = lk.Product(lk.Permutation.uniform(B, K, N), motion)
    for g, point, vector in ((motion, "point", "vector"), (both, (1, "point"), (1, "vector"))):
        x_k = g.transform_input(x, point)
        want = torch.complex(g.transform_input(x.real, point), g.transform_input(x.imag, vector))
        assert torch.allclose(x_k, want) and torch.allclose(g.transform_output(x_k, point), x)


@pytest.mark.parametrize("shape", [(0, N, D, 2), (B, 0, D, 2), (B, N, D, 0)])
def test_unitary_matrices_act_on_nothing(shape: tuple) -> None:
    g = lk.Unitary.uniform(shape[0], K, D)
    for order in (1, 2):
        x = torch.zeros(*shape[:2], *[D] * order, *shape[3:], dtype=torch.complex64, requires_grad=True)
        x_k = g.transform_input(x, order)
        y = g.transform_output(x_k, order)
        assert x_k.shape == (shape[0], K, *x.shape[1:]) and y.shape == x.shape
        y.abs().sum().backward()
        assert x.grad.shape == x.shape


def test_parts_that_count_other_nodes_do_not_go_together() -> None:
    g, h = (lk.Permutation.uniform(B, K, N, num_nodes=nodes) for nodes in (NODES, NODES - 1))
    motion, other = (lk.Euclidean.uniform(points(), K, num_nodes=nodes) for nodes in (NODES.clone(), NODES - 1))
    lk.Product(g, motion), g @ lk.Permutation.uniform(B, K, N)
    for call in (lambda: lk.Product(g, other), lambda: g @ h, lambda: motion @ other):
        with pytest.raises(ValueError, match=r"^num_nodes: expected the same"):
            call()


@pytest.mark.parametrize(
    ("q", "center", "error", "message"),
    [
        (torch.eye(D).expand(B, K, D, D), None, TypeError, "center: expected a tensor"),
        (torch.eye(D).expand(B, K, D, D), torch.zeros(B, D) + 0j, TypeError, "center: expected a real"),
        (torch.eye(D).expand(B, K, D, D), torch.zeros(B, D).to_sparse(), TypeError, "center: expected a dense"),
        (torch.eye(D, dtype=torch.complex64).expand(B, K, D, D), torch.zeros(B, D), TypeError, "q: expected float"),
    ],
)
def test_motions_from_wrong_matrices_raise(q, center, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        lk.Euclidean.from_matrix(q, center)


@pytest.mark.parametrize(
    "nodes", [torch.tensor([5, 3], dtype=torch.int32), torch.tensor([5]), torch.tensor([5, -1]), 5]
)
def test_motions_from_matrices_check_their_nodes(nodes) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^num_nodes: expected"):
        lk.Euclidean.from_matrix(torch.eye(D).expand(B, K, D, D), torch.zeros(B, D), num_nodes=nodes)


@EACH
@pytest.mark.parametrize("x", [None, "x", 3.0])
def test_what_is_no_tensor_raises_by_name(made: str, x) -> None:
    g, order = MADE[made]()
    for name, act in (("x", g.transform_input), ("y", g.transform_output)):
        with pytest.raises(TypeError, match=f"^{name}: expected a tensor"):
            act(x, order)


@EACH
def test_an_order_is_no_bool(made: str) -> None:
    g, _ = MADE[made]()
    with pytest.raises(ValueError, match=r"^order: expected"):
        g.transform_input(points(), True)


@pytest.mark.parametrize("group", [lk.Orthogonal, lk.Unitary, lk.Euclidean])
def test_identities_of_integers_raise(group) -> None:
    with pytest.raises(TypeError, match=r"^dtype: expected a floating or complex one"):
        group.identity(B, K, D, dtype=torch.int64)


def test_motions_take_a_translation_of_another_dtype() -> None:
    g = lk.Euclidean.from_matrix(torch.eye(D).expand(B, K, D, D), torch.ones(B, D, dtype=torch.float64))
    assert torch.equal((g.inverse() @ g).matrix(), torch.eye(D + 1).expand(B, K, D + 1, D + 1))


def test_finite_groups_have_no_padding() -> None:
    with pytest.raises(ValueError, match="num_nodes: expected none for C_n"):
        lk.Symmetrized(torch.nn.Identity(), "C_n", order_out=1)(points(), num_nodes=NODES)


def test_a_product_across_groups_never_drops_a_translation() -> None:
    turn, motion = lk.Unitary.uniform(B, K, D), lk.Euclidean.uniform(points(), K)
    for h, order in ((turn @ motion, "point"), (motion @ turn, 1)):
        with pytest.raises(ValueError, match="order: expected one"):
            h.transform_input(points().to(torch.complex64), order)


def test_nodes_are_not_sorted_by_complex_features() -> None:
    for features in (points().to(torch.complex64), points()[0].to_sparse()):
        with pytest.raises(TypeError, match="features: expected dense real"):
            lk.Permutation.from_sort(features)


def test_floats_that_no_kernel_knows_are_moved_but_not_averaged() -> None:
    g, x = lk.Permutation.from_scores(scores()), points().to(torch.float8_e4m3fn)
    assert torch.equal(g.transform_input(x).float(), g.transform_input(x.float()))
    with pytest.raises(TypeError, match="y: expected floating point"):
        g.transform_output(g.transform_input(x))


@EACH
def test_vmap_takes_elements(made: str) -> None:
    g, order = MADE[made]()
    h = g.inverse() if made == "orthogonal" else g
    both = pytree.tree_map(lambda *x: torch.stack(x), g, h)
    x = points(torch.complex64) if made == "unitary" else points()
    y = torch.vmap(lambda g, x: g.transform_output(g.transform_input(x, order), order), (0, None))(both, x)
    want = [g.transform_output(g.transform_input(x, order), order) for g in (g, h)]
    assert torch.allclose(y, torch.stack(want), atol=1e-6)
    shapes = pytree.tree_map(lambda x: x.dim(), g)
    assert pytree.tree_leaves(shapes) == [x.dim() for x in pytree.tree_leaves(g)]


@pytest.mark.parametrize("first", [True, False])
def test_padding_on_one_side_of_a_product_stays_that_sides(first: bool) -> None:
    whole, padded = lk.Permutation.uniform(B, K, N), lk.Permutation.uniform(B, K, N, NODES)
    g, h = (padded, whole) if first else (whole, padded)
    y = torch.randn(B, K, N, D)
    assert torch.equal((g @ h).transform_output(y), g.transform_output(h.transform_output(y, reduce=None)))
    inverse = h.inverse().transform_output(g.inverse().transform_output(y, reduce=None))
    assert torch.equal((g @ h).inverse().transform_output(y), inverse)


def relaxed(n: int, nodes: list[int]) -> lk.Permutation:
    return lk.Permutation.from_scores(torch.randn(B, 1, n).requires_grad_(), torch.tensor(nodes))


MISFITS = {
    "nodes of three": (lambda: relaxed(5, [3, 3]) @ relaxed(5, [3, 3]) @ relaxed(5, [5, 5]), ValueError, "num_nodes"),
    "size of three": (lambda: relaxed(5, [3, 3]) @ relaxed(5, [3, 3]) @ relaxed(4, [3, 3]), ValueError, "same shape"),
    "nodes and space": (lambda: relaxed(3, [3, 3]) @ lk.Orthogonal.uniform(B, 1, 3), TypeError, "act on nodes"),
    "both and space": (
        lambda: lk.Product(relaxed(3, [3, 3]), lk.Orthogonal.uniform(B, 1, 3)) @ lk.Orthogonal.uniform(B, 1, 3),
        TypeError,
        "act on nodes and space",
    ),
    "motions as nodes": (
        lambda: lk.Product(
            lk.Orthogonal.uniform(B, 1, 3) @ lk.Unitary.uniform(B, 1, 3), lk.Orthogonal.uniform(B, 1, 3)
        ),
        TypeError,
        "permutation: expected",
    ),
    "devices": (
        lambda: lk.Product(lk.Permutation.uniform(B, 1, 4), lk.Orthogonal.identity(B, 1, 3, device="meta")),
        ValueError,
        "motion: expected a tensor on cpu",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_elements_that_do_not_go_together_raise(misfit: str) -> None:
    make, error, message = MISFITS[misfit]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_elements_of_two_bytes_have_an_entropy_and_good_matrices(dtype: torch.dtype) -> None:
    g = lk.Permutation.from_scores(scores(), tau=0.3)
    entropy = g.to(dtype).entropy()
    entropy.backward()
    torch.testing.assert_close(entropy, g.entropy().to(dtype), rtol=0.05, atol=0)
    lk.Orthogonal.from_matrix(lk.Orthogonal.uniform(B, K, D, dtype=dtype).q)


def test_points_far_away_in_float64_are_centered_in_float64() -> None:
    x, v = points(torch.float64) + 1e6, torch.randn(B, K, D, D)
    _, x_k = lk.sample_rotate(v, x)
    torch.testing.assert_close(lk.Euclidean.from_vectors(v, x).transform_input(x), x_k, rtol=0, atol=1e-8)


def test_only_what_depends_on_a_gradient_has_one() -> None:
    x, constant = points().requires_grad_(), scores().detach()
    haar, x_k = lk.sample_rotate(None, x, k=K)
    assert x_k.requires_grad and haar.center.requires_grad and not haar.q.requires_grad
    g, x_k = lk.sample_permute(constant, x)
    assert x_k.requires_grad and not g.entropy().requires_grad
    _, x_k, edges_k = lk.sample_permute(constant, x.detach(), torch.randn(B, N, N).requires_grad_())
    assert edges_k.requires_grad and not x_k.requires_grad
