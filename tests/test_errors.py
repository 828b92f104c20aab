"""Bad arguments raise before any kernel runs, naming the argument; a named backend that can't run raises."""

import math

import pytest
import torch

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.op import BACKENDS

B, K, N, C = 2, 3, 5, 4
SCORES, X, EDGES = torch.randn(B, K, N), torch.randn(B, N, C), torch.randn(B, N, N, C)
Y, EDGES_Y = torch.randn(B, K, N, C), torch.randn(B, K, N, N, C)
PERM = torch.arange(N).flip(0).expand(B, K, N)
SOFT = lk.softsort(SCORES)
INT = torch.ones(B, K, N, dtype=torch.int64)


def perm_with(row, col, value):
    perm = PERM.clone()
    perm[row[0], row[1], col] = value
    return perm


BAD_SCORES = [
    ("scores", TypeError, {"scores": [1.0, 2.0]}),
    ("scores", ValueError, {"scores": torch.randn(K, N)}),
    ("scores", ValueError, {"scores": torch.randn(B, K, N, 1)}),
    ("scores", TypeError, {"scores": INT}),
    ("scores", TypeError, {"scores": INT.bool()}),
    ("scores", TypeError, {"scores": SCORES.to(torch.complex64)}),
    ("scores", TypeError, {"scores": SCORES.to_sparse()}),
    ("k", ValueError, {"scores": torch.randn(B, 0, N)}),
]
BAD_NODES = [
    ("num_nodes", TypeError, {"num_nodes": [N, N]}),
    ("num_nodes", TypeError, {"num_nodes": torch.tensor([5.0, 5.0])}),
    ("num_nodes", TypeError, {"num_nodes": torch.tensor([5, 5], dtype=torch.int32)}),
    ("num_nodes", ValueError, {"num_nodes": torch.tensor([5])}),
    ("num_nodes", ValueError, {"num_nodes": torch.tensor([[5, 5]])}),
    ("num_nodes", ValueError, {"num_nodes": torch.tensor([5, -1])}),
    ("num_nodes", ValueError, {"num_nodes": torch.tensor([6, 5])}),
    ("num_nodes", ValueError, {"num_nodes": torch.tensor([5, 5], device="meta")}),
]
NO_BOOL = ("no", 1, None)
BAD_FLAGS = [("normalize", TypeError, {"normalize": flag}) for flag in NO_BOOL]
BAD_HARD = [("hard", TypeError, {"hard": flag}) for flag in NO_BOOL]
BAD_GENERATOR = [("generator", TypeError, {"generator": 3})]
BAD_SAMPLING = BAD_FLAGS + BAD_GENERATOR
BAD_SIZES = [
    *(("b", ValueError, {"b": -1}), ("k", ValueError, {"k": 0}), ("n", ValueError, {"n": -1})),
    *((name, TypeError, {name: size}) for name in "bkn" for size in (2.0, "2", None, torch.tensor(2.0))),
]
BAD_TAU = [
    *(("tau", ValueError, {"tau": tau}) for tau in (0, 0.0, -1.0, math.nan, math.inf, -math.inf)),
    *(("tau", TypeError, {"tau": tau}) for tau in ("0.1", None, torch.tensor(0.1), True)),
]
BAD_ITERATIONS = [
    ("n_iter", ValueError, {"n_iter": -1}),
    *(("n_iter", TypeError, {"n_iter": n}) for n in (2.0, None, True, "20")),
]
BAD_PERM = [
    ("perm", TypeError, {"perm": PERM.tolist()}),
    ("perm", TypeError, {"perm": PERM.float()}),
    ("perm", TypeError, {"perm": PERM.int()}),
    ("perm", ValueError, {"perm": PERM[0]}),
    ("perm", ValueError, {"perm": perm_with((1, 2), 0, N)}),
    ("perm", ValueError, {"perm": perm_with((1, 2), 0, -1)}),
    ("perm", ValueError, {"perm": perm_with((1, 2), 0, 0)}),
    ("perm", ValueError, {"num_nodes": torch.tensor([5, 3])}),  # the padding is moved
    ("k", ValueError, {"perm": PERM[:, :0]}),
]
BAD_SOFT = [
    ("soft", TypeError, {"soft": SCORES}),
    ("soft", TypeError, {"soft": (SCORES, SCORES)}),
    ("soft.row", ValueError, {"soft": SOFT._replace(row=SCORES[:, :, :3])}),
    ("soft.t", TypeError, {"soft": SOFT._replace(t=INT)}),
    ("soft.col", ValueError, {"soft": SOFT._replace(col=SCORES.to("meta"))}),
    ("hard", TypeError, {"hard": False}),  # without a soft part
]
BAD_X = [
    ("x", TypeError, {"x": X.tolist()}),
    ("x", ValueError, {"x": X[:1]}),
    ("x", ValueError, {"x": X[:, 1:]}),
    ("x", ValueError, {"x": X[0, 0]}),
    ("x", ValueError, {"x": X.to("meta")}),
    ("x", TypeError, {"x": X.to_sparse()}),
    ("x", ValueError, {"order": 2}),
    *(("order", ValueError, {"order": order}) for order in (3, -1, "1", None, 1.5, 1.0, (1, 1))),
]
BAD_Y = [
    ("y", TypeError, {"y": None}),
    ("y", ValueError, {"y": X}),
    ("y", ValueError, {"y": Y[:, :2]}),
    ("y", ValueError, {"y": Y.to("meta")}),
    ("y", TypeError, {"y": INT}),  # no mean of integers
    ("reduce", ValueError, {"reduce": "sum"}),
    ("weights", ValueError, {"weights": torch.ones(B, K + 1)}),
    ("weights", ValueError, {"weights": torch.ones(K)}),
    ("weights", TypeError, {"weights": [1.0] * K}),
    ("weights", TypeError, {"weights": torch.ones(B, K, dtype=torch.int64)}),
    ("weights", ValueError, {"weights": torch.ones(B, K, device="meta")}),
    ("weights", ValueError, {"weights": torch.ones(B, K), "reduce": None}),
    ("y", ValueError, {"order": 2}),
]
BAD_BACKEND = [("backend", ValueError, {"backend": "fast"}), ("backend", RuntimeError, {"backend": "cuda"})]
SAMPLE_ONLY = [
    ("x", TypeError, {"x": INT[:, 0]}),
    ("x", ValueError, {"x": X[:, 1:]}),
    ("edges", ValueError, {"edges": EDGES[:, 1:]}),
    ("edges", TypeError, {"edges": EDGES.double()}),
    ("edges", TypeError, {"edges": 3}),
]
FUNCTIONS = [
    (lk.softsort, {"scores": SCORES}, BAD_SCORES + BAD_NODES + BAD_TAU + BAD_ITERATIONS + BAD_BACKEND + BAD_SAMPLING),
    (
        lk.Permutation.from_scores,
        {"scores": SCORES},
        BAD_SCORES + BAD_NODES + BAD_TAU + BAD_ITERATIONS + BAD_SAMPLING + BAD_HARD,
    ),
    (
        lk.sample_permute,
        {"scores": SCORES, "x": X},
        BAD_SCORES + BAD_NODES + BAD_TAU + BAD_ITERATIONS + SAMPLE_ONLY + BAD_BACKEND + BAD_SAMPLING + BAD_HARD,
    ),
    (lk.permute, {"x": X, "perm": PERM}, BAD_X + BAD_PERM + BAD_SOFT + BAD_HARD + BAD_TAU + BAD_NODES + BAD_BACKEND),
    (
        lk.inverse_permute,
        {"y": Y, "perm": PERM},
        BAD_Y + BAD_PERM + BAD_SOFT + BAD_HARD + BAD_TAU + BAD_NODES + BAD_BACKEND,
    ),
    (lk.Permutation.from_indices, {"perm": PERM}, BAD_PERM + BAD_NODES),
    (
        lk.Permutation.uniform,  # on the device of num_nodes
        {"b": B, "k": K, "n": N},
        [*BAD_NODES[:-1], *BAD_SIZES, *BAD_GENERATOR],
    ),
    (
        lk.Permutation.identity,
        {"b": B, "k": K, "n": N},
        [*BAD_NODES, *BAD_SIZES],
    ),
    (lk.Permutation.identity(B, K, N).transform_input, {"x": X}, BAD_X),
    (lk.Permutation.identity(B, K, N).transform_output, {"y": Y}, BAD_Y),
    (lk.Permutation.identity(B, K, N).inverse().transform_input, {"x": X}, BAD_X),
    (lk.Permutation.identity(B, K, N).inverse().transform_output, {"y": Y}, BAD_Y),
    (lk.Permutation.from_scores(SCORES.requires_grad_()).transform_input, {"x": X}, BAD_X),
]
TABLE = [
    pytest.param(function, good, *bad, id=f"{function.__qualname__}-{bad[0]}-{i}")
    for function, good, every in FUNCTIONS
    for i, bad in enumerate(every)
]


@pytest.mark.parametrize(("function", "good", "name", "error", "given"), TABLE)
def test_names_the_argument(function, good, name, error, given):
    with pytest.raises(error, match=rf"^{name}\b"):
        function(**(good | given))


@pytest.mark.parametrize(("function", "good"), [f[:2] for f in FUNCTIONS], ids=[f[0].__qualname__ for f in FUNCTIONS])
def test_good_arguments_pass(function, good):
    function(**good)


def test_products_need_the_same_shape():
    g = lk.Permutation.uniform(B, K, N)
    for other in (lk.Permutation.uniform(B, K, N + 1), lk.Permutation.uniform(B, K + 1, N)):
        with pytest.raises(ValueError, match=r"^@"):
            g @ other
    with pytest.raises(TypeError):
        g @ 3


@pytest.mark.parametrize("name", [n for n, (device, _) in BACKENDS.items() if device != "cpu"])
def test_a_named_backend_never_falls_back(name):
    with lk.backend(name), pytest.raises(RuntimeError, match=name):
        lk.permute(X, PERM)


def test_an_op_without_a_kernel_says_so_by_name():
    for op in testing.forward_ops().values():
        if not op.has_kernel("cpu"):
            with pytest.raises(RuntimeError, match=f"cpu.*{op.name}"):
                op.choose("cpu", "cpu")


def test_backend_restores_the_choice_even_after_an_error():
    with pytest.raises(KeyError), lk.backend("reference"):
        raise KeyError
    with lk.backend("cuda"), lk.backend("reference"):
        lk.permute(X, PERM)
    lk.permute(X, PERM)
    with pytest.raises(ValueError, match="backend"), lk.backend("quick"):
        pass
