"""Values and all gradients of the public API equal those of the dense implementation in dense.py.

float64 agrees to 1e-10; float32 errs at most three times as much as dense float32 does.
"""

import random

import dense
import pytest
import torch

import lps_kernels as lk
from lps_kernels import testing

NODES_IN, EDGES_IN, NODES_OUT, EDGES_OUT, ENTROPY = "nodes_in", "edges_in", "nodes_out", "edges_out", "entropy"
EVERYTHING = (NODES_IN, EDGES_IN, NODES_OUT, EDGES_OUT, ENTROPY)
USES = (*((use,) for use in EVERYTHING), (NODES_IN, NODES_OUT, ENTROPY), EVERYTHING)
SIZES = (0, 1, 2, 3, 7, 8, 9, 33, 64)
LARGE = (188, 444)
CHOICES = {
    "k": (1, 3),
    "tau": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "n_iter": (0, 1, 5, 20),
    "scores": ("normal", "normal", "tied", "clustered", "heavy", "spaced", "equal"),
    "ragged": (True, True, False),
    "normalize": (True, True, True, False),
    "hard": (True, True, False),
    "weighted": (False, True),
    "layout": ("contiguous", "contiguous", "strided", "expanded"),
}


def covering_cases(rounds=6, seed=0):
    """Every size with every use, in each round; the options are shuffled so that each occurs with all others."""
    pick = random.Random(seed)
    table = [(n, uses) for _ in range(rounds) for n in SIZES for uses in USES] + [(n, u) for n in LARGE for u in USES]
    columns = {name: (values * len(table))[: len(table)] for name, values in CHOICES.items()}
    columns = {name: pick.sample(values, len(values)) for name, values in columns.items()}
    for i, (n, uses) in enumerate(table):
        options = {name: values[i] for name, values in columns.items()}
        if n in LARGE:
            options["k"] = 1
        yield testing.Case(b=5 if n < 64 else 2, n=n, c=2, **options), uses
    # Many rows of few channels, few rows, and long nodes take ways of their own through the gradient of the scores.
    for b, k, c in ((5, 3, 1), (5, 3, 3), (5, 3, 4), (1, 1, 3), (5, 3, 6), (2, 1, 40), (2, 2, 530)):
        for n, scores, weighted in ((1, "normal", False), (9, "tied", True), (40, "clustered", False)):
            case = testing.Case(b=b, k=k, n=n, c=c, scores=scores, weighted=weighted, ragged=b > 1, n_iter=20)
            yield case, (NODES_IN, NODES_OUT)
    # So do edges, by how their channels fill vectors.
    for c in (1, 3, 4, 6, 8, 9, 16):
        for n, scores, weighted in ((1, "normal", False), (9, "tied", True), (37, "clustered", False)):
            case = testing.Case(b=2, k=2, n=n, c=c, scores=scores, weighted=weighted, ragged=n > 1, n_iter=20)
            yield case, (EDGES_IN, EDGES_OUT)


def make_inputs(case, dtype):
    g = torch.Generator().manual_seed(case.n)
    b, k, n, c = case.b, case.k, case.n, case.c
    shapes = {"x": (b, n, c), "edges": (b, n, n, c), "y": (b, k, n, c), "edges_y": (b, k, n, n, c)}
    made = {name: torch.randn(*shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    made["scores"] = testing.make_scores(case.scores, (b, k, n), g)
    if case.weighted:
        made["weights"] = torch.rand(b, k, generator=g, dtype=torch.float64) + 0.1
    nodes = testing.ragged_sizes(b, n) if case.ragged else None
    made = {name: testing.relayout(x.float().to(dtype), case.layout).requires_grad_() for name, x in made.items()}
    return made, nodes


def library(case, inputs, nodes, uses):
    options = {name: getattr(case, name) for name in ("tau", "n_iter", "normalize", "hard")}
    g = lk.Permutation.from_scores(inputs["scores"], nodes, **options)
    weights = inputs.get("weights")
    results = {
        NODES_IN: lambda: g.transform_input(inputs["x"]),
        EDGES_IN: lambda: g.transform_input(inputs["edges"], order=2),
        NODES_OUT: lambda: g.transform_output(inputs["y"], weights=weights),
        EDGES_OUT: lambda: g.transform_output(inputs["edges_y"], order=2, weights=weights),
        ENTROPY: g.entropy,
    }
    return g, {use: results[use]() for use in uses}


def dense_results(case, inputs, nodes, uses, perm):
    log_p = dense.log_soft_permutation(inputs["scores"], perm, nodes, case.tau, case.n_iter, case.normalize)
    p, weights = dense.permutation(log_p, perm, nodes, case.hard), inputs.get("weights")
    results = {
        NODES_IN: lambda: dense.nodes_in(p, inputs["x"]),
        EDGES_IN: lambda: dense.edges_in(p, inputs["edges"]),
        NODES_OUT: lambda: dense.nodes_out(p, inputs["y"], weights),
        EDGES_OUT: lambda: dense.edges_out(p, inputs["edges_y"], weights),
        ENTROPY: lambda: dense.entropy(log_p, nodes),
    }
    return {use: results[use]() for use in uses}


def gradients(results, inputs):
    loss = 0
    for use, out in results.items():
        g = torch.Generator().manual_seed(EVERYTHING.index(use))
        loss = loss + (out * (torch.randint(-9, 10, out.shape, generator=g) / 4).to(out)).sum()
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    named = {f"gradient of {name}": f for name, f in zip(inputs, found) if f is not None}
    if "gradient of weights" in named and inputs["weights"].shape[1] == 1:
        del named["gradient of weights"]  # zero, as one weight is divided by itself; what is left is rounding
    return named


def rounded(inputs, phase):
    """The inputs as if each had been rounded once more, one way or another; equal values stay equal."""
    eps = torch.finfo(torch.float32).eps
    return {name: (x * (1 + eps * (1e5 * x + phase).sin())).detach().requires_grad_() for name, x in inputs.items()}


def all_of(case, inputs, nodes, uses, perm):
    results = dense_results(case, inputs, nodes, uses, perm)
    return results | gradients(results, inputs)


def assert_equal_to_dense(case, uses, dtype, backend=None):
    inputs, nodes = make_inputs(case, dtype)
    with lk.backend(backend):
        g, results = library(case, inputs, nodes, uses)
        got = results | gradients(results, inputs)
    wide, _ = make_inputs(case, torch.float64)
    want = all_of(case, wide, nodes, uses, g.perm)
    assert got.keys() == want.keys()
    if dtype == torch.float64:
        bases = [want]
    else:  # with few entries dense float32 can be right by luck: what one rounding of the inputs changes counts too
        bases = [all_of(case, x, nodes, uses, g.perm) for x in (inputs, *(rounded(wide, i) for i in range(4)))]
    for name in got:
        base = max((b[name].to(dtype) for b in bases), key=lambda b: (b.double() - want[name]).square().sum())
        testing.assert_close(f"{case} {name}", got[name], want[name], base, terms=max(case.n, 1))


ALL = list(covering_cases())


each_case = pytest.mark.parametrize(
    ("case", "uses"), ALL, ids=lambda v: str(v) if isinstance(v, testing.Case) else "+".join(v)
)


@each_case
def test_equals_dense_in_float64(case, uses):
    assert_equal_to_dense(case, uses, torch.float64)


@each_case
def test_errs_no_more_than_dense_in_float32(case, uses):
    assert_equal_to_dense(case, uses, torch.float32)


@pytest.mark.parametrize(("case", "uses"), [c for c in ALL if c[0].n <= 64][::2], ids=str)
def test_reference_equals_dense(case, uses):
    assert_equal_to_dense(case, uses, torch.float64, "reference")


def test_cases_cover_every_pair_of_options():
    seen = {(a, getattr(c, a), b, getattr(c, b)) for c, _ in ALL for a in CHOICES for b in CHOICES if a < b}
    missing = [
        (a, v, b, w)
        for a in CHOICES
        for b in CHOICES
        if a < b
        for v in CHOICES[a]
        for w in CHOICES[b]
        if (a, v, b, w) not in seen
    ]
    assert not missing


@pytest.mark.parametrize("use", EVERYTHING)
def test_one_sided_tie_rule_would_be_seen(use):
    """Within ties the gradient is not that of scores spread apart in their sorted order."""
    case = testing.Case(n=9, tau=0.5, scores="tied", normalize=False)
    inputs, nodes = make_inputs(case, torch.float64)
    g, results = library(case, inputs, nodes, (use,))
    got = gradients(results, inputs)["gradient of scores"]
    rank = torch.zeros_like(inputs["scores"]).scatter(
        -1, g.perm, torch.arange(9.0, dtype=torch.float64).expand(5, 3, 9)
    )
    spread = dict(inputs, scores=(inputs["scores"] - 1e-9 * rank).detach().requires_grad_())
    results = dense_results(case, spread, nodes, (use,), g.perm)
    apart = gradients(results, spread)["gradient of scores"]
    assert (got - apart).abs().max() > 1e-3
