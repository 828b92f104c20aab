"""Random sizes, layouts, dtypes and scores. LPS_FUZZ_EXAMPLES sets the number of examples of each test; the normal run
always draws the same ones."""

import dataclasses
import os

import dense
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.ops.soft_sort import _soft_sort

BEST = {name: "cpu" if op.has_kernel("cpu") else "reference" for name, op in testing.forward_ops().items()}
FAMILIES = ("normal", "tied", "clustered", "heavy", "spaced", "equal", "zero")
LAYOUTS = ("contiguous", "contiguous", "strided", "expanded")


def examples(count):
    return settings(
        max_examples=int(os.environ.get("LPS_FUZZ_EXAMPLES", count)),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


case_strategy = st.builds(
    testing.Case,
    b=st.integers(0, 3),
    k=st.integers(1, 3),
    n=st.one_of(st.integers(0, 10), st.integers(11, 40)),
    c=st.integers(0, 5),
    order=st.sampled_from((1, 1, 2)),
    ragged=st.booleans(),
    scores=st.sampled_from(FAMILIES),
    tau=st.sampled_from((1e-3, 0.01, 0.1, 1.0, 10.0)),
    n_iter=st.integers(0, 6),
    normalize=st.booleans(),
    hard=st.booleans(),
    soft=st.booleans(),
    mean=st.booleans(),
    weighted=st.booleans(),
    edges=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
)


def sensible(op, case):
    """What the public functions never ask for: weights without a mean."""
    fields = {"weighted": case.weighted and case.mean}
    if op.name == "sample_permute":
        fields["order"] = 1
    return dataclasses.replace(case, **fields)


@pytest.mark.parametrize("name", [name for name in BEST if name != "random_permutation"])
@examples(280)
@given(data=st.data())
def test_kernel_equals_reference(name, data):
    op = testing.forward_ops()[name]
    case = sensible(op, data.draw(case_strategy, label="case"))
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16)), label="dtype")
    args = testing.arguments(op, case, dtype, seed=data.draw(st.integers(0, 2**20), label="seed"))
    # Four times: where gaps are many tau wide, exp multiplies the rounding of each term by gap / tau.
    tolerance = {"terms": 4 * max(case.n, 1) ** case.order, "scale": 0.05}
    testing.assert_matches(op, BEST[name], args, **tolerance)
    testing.assert_gradients_match(
        op, BEST[name], args, layout=data.draw(st.sampled_from(LAYOUTS), label="layout"), **tolerance
    )


@examples(400)
@given(case=case_strategy, seed=st.integers(0, 2**20))
def test_public_functions_equal_dense(case, seed):
    g = torch.Generator().manual_seed(seed)
    b, k, n, c, order = case.b, case.k, case.n, case.c, case.order
    scores = testing.make_scores(case.scores, (b, k, n), g)
    x, y = (torch.randn(*s, *[n] * order, c, generator=g, dtype=torch.float64) for s in ((b,), (b, k)))
    leaves = [testing.relayout(a, case.layout).requires_grad_() for a in (scores, x, y)]
    nodes = testing.ragged_sizes(b, n) if case.ragged else None
    options = {"tau": case.tau, "n_iter": case.n_iter, "normalize": case.normalize}

    made = lk.Permutation.from_scores(leaves[0], nodes, hard=case.hard, **options)
    got = made.transform_input(leaves[1], order), made.transform_output(leaves[2], order), made.entropy()
    log_p = dense.log_soft_permutation(leaves[0], made.perm, nodes, **options)
    p = dense.permutation(log_p, made.perm, nodes, case.hard)
    into, out = ((dense.nodes_in, dense.nodes_out), (dense.edges_in, dense.edges_out))[order - 1]
    want = into(p, leaves[1]), out(p, leaves[2], None), dense.entropy(log_p, nodes)
    for name, a, w in zip(("in", "out", "entropy"), got, want):
        testing.assert_close(name, a, w, w)
        found, wanted = (
            torch.autograd.grad(v.sin().sum(), leaves, allow_unused=True, retain_graph=True) for v in (a, w)
        )
        for leaf, f, v in zip(("scores", "x", "y"), found, wanted):
            assert (f is None) == (v is None)
            if f is not None:
                testing.assert_close(f"{name} gradient of {leaf}", f, v, v)


@examples(600)
@given(
    values=st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1, max_size=9),
    size=st.integers(0, 9),
    tau=st.sampled_from((1e-3, 0.1, 10.0)),
    normalize=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
def test_any_scores_give_a_bijection_and_finite_gradients(values, size, tau, normalize, dtype):
    z = torch.tensor(values, dtype=dtype).mT[None].contiguous().requires_grad_()  # (1, 4, n)
    n = z.shape[-1]
    nodes = torch.tensor([min(size, n)])
    seed = torch.tensor([1], dtype=torch.int64)
    perm, t, row, col = _soft_sort(z, seed, nodes, tau, 3, normalize, True, backend=BEST["soft_sort"])
    same = _soft_sort.reference(z.detach(), seed, nodes, tau, 3, normalize, True)[0]
    assert torch.equal(perm, same)
    assert torch.equal(perm.sort(-1).values, torch.arange(n).expand(1, 4, n))
    (dz,) = torch.autograd.grad((row - col).sum() + t.tanh().sum(), z)
    for x in (t, row, col, dz):
        assert not x.isnan().any() and (x[..., int(nodes) :] == 0).all()
    bad = ~z.detach()[..., : int(nodes)].isfinite().all(-1)
    assert (dz[bad] == 0).all() and (row[bad] == 0).all()


@examples(200)
@given(
    b=st.integers(0, 4),
    k=st.integers(1, 4),
    n=st.integers(0, 70),
    ragged=st.booleans(),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_draws_are_those_of_the_reference(b, k, n, ragged, seed):
    op = testing.forward_ops()["random_permutation"]
    nodes = testing.ragged_sizes(b, n) if ragged else None
    args = (torch.tensor([seed], dtype=torch.int64), nodes, b, k, n)
    assert torch.equal(op(*args, backend=BEST[op.name]), op.reference(*args))
