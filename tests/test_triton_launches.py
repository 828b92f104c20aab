"""How often an op goes to the device: Triton's launches, and PyTorch's own operators between them, which launch too.

Each op is one launch forward and one backward but where the table says why not.
"""

import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lps_kernels import testing
from lps_kernels.op import OPS
from lps_kernels.testing import Case

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# Operators that allocate or look at a tensor in another way, and launch nothing.
FREE = {
    "empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "view", "_unsafe_view", "expand",
    "unsqueeze", "squeeze", "select", "slice", "detach", "alias", "transpose", "t", "permute", "as_strided", "unbind",
}  # fmt: skip

HARD = {"n": 20, "soft": False}
SOFT = {"n": 20, "soft": True, "tau": 0.1, "n_iter": 2}
FEW = {**SOFT, "b": 300, "k": 1, "c": 1, "n": 3}  # rows enough that none is cut into parts
# By op and case: launches forward, and backward by the arguments whose gradients are wanted, all of them where None.
LAUNCHES = [
    ("random_permutation", Case(**HARD), 1, {}),
    ("soft_sort", Case(**SOFT), 1, {None: 1}),
    # Entropies of a graph are a sum over its samples, which are programs.
    ("permutation_entropy", Case(**SOFT), 2, {None: 1}),
    ("gram_schmidt", Case(), 1, {None: 1}),
    ("random_orthogonal", Case(), 1, {}),
    ("permute", Case(**HARD), 1, {None: 1}),
    ("permute", Case(**HARD, c=8), 1, {None: 1}),
    ("permute", Case(**HARD, order=2), 1, {None: 1}),
    ("permute", Case(**HARD, order=2, c=8), 1, {None: 1}),
    # Nodes gather by rank and go back by node; scans go along ranks.
    ("permute", Case(**SOFT), 1, {None: 2, "x": 1, "t row col": 1}),
    # The channels of a row are cut into parts where rows are few, and another launch adds these up.
    ("permute", Case(**SOFT, order=2), 1, {None: 3, "x": 1, "t row col": 2}),
    ("permute", Case(**FEW, order=2), 1, {None: 2}),
    ("inverse_permute_mean", Case(**HARD), 1, {None: 1}),
    ("inverse_permute_mean", Case(**HARD, c=8, mean=False), 1, {None: 1}),
    ("inverse_permute_mean", Case(**HARD, order=2, mean=False), 1, {None: 1}),
    ("inverse_permute_mean", Case(**HARD, order=2, c=8), 1, {None: 1}),
    # A weight's gradient is a sum over all of its sample.
    ("inverse_permute_mean", Case(**HARD, weighted=True), 1, {None: 2, "y": 1, "weights": 1}),
    ("inverse_permute_mean", Case(**SOFT), 1, {None: 2, "t row col": 1}),
    # Soft values: a launch an axis that is scanned, and one that goes back to nodes.
    ("permute", Case(**{**SOFT, "hard": False}), 1, {None: 3, "x": 2, "t row col": 1}),
    ("permute", Case(**{**SOFT, "hard": False}, order=2), 2, {None: 8, "x": 3, "t row col": 6}),
    ("inverse_permute_mean", Case(**{**SOFT, "hard": False}), 2, {None: 2, "y": 1, "t row col": 1}),
    ("inverse_permute_mean", Case(**{**SOFT, "hard": False}, order=2), 3, {None: 7, "y": 2, "t row col": 6}),
    # Gradients of q and center are sums over nodes, blocks of which are programs where there are several.
    ("rotate", Case(n=20), 1, {None: 1, "x": 1}),
    ("rotate", Case(n=100), 1, {None: 2, "x": 1}),
    ("inverse_rotate_mean", Case(n=20), 1, {None: 1, "y": 1}),
    ("inverse_rotate_mean", Case(n=20, order=2, weighted=True), 1, {None: 1, "y": 1}),
    ("inverse_rotate_mean", Case(n=20, k=9), 1, {None: 2, "y": 1}),  # eight samples are a program
    ("permute_rotate", Case(**HARD), 1, {None: 1, "x": 1}),
    ("permute_rotate", Case(**{**HARD, "n": 188, "c": 8}), 1, {None: 2, "x": 1}),
    # Scores have the gradient of what was turned, which is turned anew, and scanned.
    ("permute_rotate", Case(**SOFT), 1, {None: 3, "x": 1, "t row col": 2}),
    ("inverse_permute_rotate_mean", Case(**HARD), 1, {None: 1, "y": 1}),
    ("inverse_permute_rotate_mean", Case(**SOFT), 1, {None: 2, "y": 1, "t row col": 2}),
    ("sample_rotate", Case(n=20), 1, {None: 1, "v": 1, "x": 1}),
    ("sample_rotate", Case(n=20, haar=True), 1, {None: 1}),
    ("sample_rotate", Case(n=100), 1, {None: 2, "v": 2, "x": 2}),
    ("sample_rotate", Case(n=300, centered=False), 1, {None: 2, "x": 1}),
    ("sample_rotate", Case(n=300), 2, {None: 2}),  # a program holds 1,024 points and channels; others sum theirs first
    ("sample_permute", Case(**HARD, edges=False), 1, {"x": 1, "scores": 1}),
    ("sample_permute", Case(**SOFT, edges=False), 1, {None: 3, "x": 1, "scores": 2}),
    # More numbers than the single warp that sorts a row puts in order.
    ("sample_permute", Case(**{**HARD, "n": 188}, edges=False), 2, {}),
    # Edges take many programs for each one of nodes: a launch of their own each way, but for the scans.
    ("sample_permute", Case(**HARD), 2, {"x edges": 2}),
    ("sample_permute", Case(**SOFT), 2, {None: 4, "scores": 2}),
    ("sample_permute", Case(**FEW), 2, {None: 4, "scores": 2}),
    ("sample_permute", Case(**SOFT, c=20), 3, {None: 4}),
]  # fmt: skip


class Launches(TorchDispatchMode):
    """Names of what goes to the device inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.__name__.split(".")[0] not in FREE and getattr(out, "numel", lambda: 1)():
            self.names.append(function.__name__)
        return out

    def __enter__(self):
        triton.knobs.runtime.launch_exit_hook.add(self.record)
        return super().__enter__()

    def __exit__(self, *error):
        triton.knobs.runtime.launch_exit_hook.remove(self.record)
        return super().__exit__(*error)

    def record(self, metadata):
        self.names.append(metadata.data["name"])


def needs_of(op, args, wanted):
    names = (
        [op.parameters[at] for at in op.differentiable if args[at] is not None] if wanted is None else wanted.split()
    )
    return sum(1 << i for i, at in enumerate(op.differentiable) if op.parameters[at] in names)


@pytest.mark.parametrize(("name", "case", "forward", "backward"), LAUNCHES, ids=str)
def test_launches(name, case, forward, backward):
    op, module = OPS[name], importlib.import_module(f"lps_kernels.triton.{name}")
    args = testing.arguments(op, case, device="cuda")
    args = [a.contiguous() if isinstance(a, torch.Tensor) else a for a in args]
    with Launches() as launches:
        outs = testing._outputs(getattr(module, name)(*args))
    assert len(launches.names) == forward, launches.names
    grads = [torch.ones_like(o) if o.is_floating_point() and o.numel() else None for o in outs]
    for wanted, count in backward.items():
        sample = [*grads, *args, *(outs[i] for i in op.saves), needs_of(op, args, wanted)]
        with Launches() as launches:
            getattr(module, op.backward.name)(*sample)
        assert len(launches.names) == count, (wanted, launches.names)
