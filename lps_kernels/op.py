"""The only glue: a class that makes an operator, with backends and gradients, out of a PyTorch function.

An op is defined by its reference, a plain PyTorch function in `ops/<name>.py`. A kernel of the same name, registered
by C++ under a dispatch key or launched by `triton/<name>.py`, replaces it where one is there; `<name>_backward` does
the same for its gradient. An op without kernels works at once, with gradients, vmap and torch.compile, as the PyTorch
function that it is.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
from torch.autograd import forward_ad

from lps_kernels import native

NAMESPACE = "lps_kernels"
_library = torch.library.Library(NAMESPACE, "DEF")

# Triton's kernels are operators of their own, with the schemas of the others: opaque to torch.compile like them.
_triton_library = torch.library.Library(f"{NAMESPACE}_triton", "DEF")
OLDEST_TRITON = (3, 6)


def _triton() -> tuple[str, str]:
    """Triton's version, read without an import, which takes a second; and why its kernels can't run, or nothing."""
    stand_in = getattr(sys.modules.get("triton"), "__spec__", sys) is None  # of which find_spec knows nothing
    spec = None if stand_in else importlib.util.find_spec("triton")
    oldest = ".".join(map(str, OLDEST_TRITON))
    if spec is None or spec.origin is None:  # a folder of that name is none
        return "not installed", f"triton is not installed: pip install 'triton>={oldest}'"
    found = re.search(r"__version__ = ['\"]((\d+)\.(\d+)[^'\"]*)", Path(spec.origin).read_text())
    if found and (int(found[2]), int(found[3])) < OLDEST_TRITON:
        return found[1], f"triton {found[1]} is too old: pip install -U 'triton>={oldest}'"
    return found[1] if found else "of unknown version", ""


TRITON_VERSION, NO_TRITON = _triton()
HAS_TRITON = not NO_TRITON
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"  # Triton then runs its kernels on the CPU, in Python

# A backend: the device type it serves and the dispatch key under which its kernels are registered. Of two that serve
# one device the first is chosen.
BACKENDS = {"cpu": ("cpu", "CPU"), "cuda": ("cuda", "CUDA"), "triton": ("cuda", "CUDA")}
if INTERPRETS:
    BACKENDS["triton"] = ("cpu", "CPU")
OPS: dict[str, Op] = {}

_named_backend: contextvars.ContextVar[str | None] = contextvars.ContextVar("lps_kernels_backend", default=None)
_traced_backend: str | None = None  # the same for torch.compile, which can't read a ContextVar but guards a global


@contextlib.contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Use one backend, and no other, for every op called inside: "cpu", "cuda", "triton" or "reference".

    A backend that can't run an op raises where the op is called. None restores the automatic choice. What is run again
    in a backward pass, as by activation checkpointing, takes the backend that is named where `backward` is called.

    >>> import torch, lps_kernels as lk
    >>> with lk.backend("reference"):
    ...     x = lk.permute(torch.arange(3.0)[None, :, None], torch.tensor([[[2, 0, 1]]]))
    >>> assert x.flatten().tolist() == [2.0, 0.0, 1.0]
    """
    global _traced_backend
    _check_name(name)
    token = None if torch.compiler.is_compiling() else _named_backend.set(name)
    before, _traced_backend = _traced_backend, name
    if token is not None:
        _pass_on(name)
    try:
        yield
    finally:
        if token is None:
            _traced_backend = before
        else:
            _named_backend.reset(token)
            _traced_backend = _named_backend.get()  # not `before`, which another thread may have left in between
            _pass_on(_traced_backend)


# Autograd runs a device's backward in a thread of its own, which has no ContextVar but PyTorch's own state of the
# thread that called it; an object may be put there.
_PASSED_ON = "lps_kernels_backend"


def _pass_on(name: str | None) -> None:
    torch._C._stash_obj_in_tls(_PASSED_ON, (threading.get_ident(), name))


def _passed_on() -> str | None:
    """What the thread named that this one runs a backward pass for."""
    if not torch._C._is_key_in_tls(_PASSED_ON):
        return None
    thread, name = torch._C._get_obj_in_tls(_PASSED_ON)
    return name if thread != threading.get_ident() else None


def _check_name(name: str | None) -> None:
    if name is not None and name != "reference" and name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, reference or None, got {name!r}")


class Op:
    """An operator: call it like its reference.

    reference: a PyTorch function, annotated as `torch.library.infer_schema` wants it. It is the definition, the shape
        rule and the fallback gradient.
    outputs: the names of what it returns.
    differentiable: the names of the arguments that receive gradients.
    saves: the names of the outputs that `<name>_backward` wants to see.
    shapeless: values of arguments that change no shape, with which the shape rule is traced fastest.
    causes: for outputs that do not depend on all differentiable arguments, the names of those on which they do.
    """

    def __init__(
        self,
        reference: Callable,
        *,
        outputs: Sequence[str] = ("out",),
        differentiable: Sequence[str] = (),
        saves: Sequence[str] = (),
        shapeless: dict[str, object] | None = None,
        causes: dict[str, Sequence[str]] | None = None,
    ) -> None:
        schema = torch.library.infer_schema(reference, mutates_args=())
        name = reference.__name__.lstrip("_")
        self._define(name, schema, reference, list(inspect.signature(reference).parameters))
        self.__doc__ = reference.__doc__
        self.outputs, self.saves = tuple(outputs), tuple(outputs.index(name) for name in saves)
        self.differentiable = tuple(self.parameters.index(name) for name in differentiable)
        causes = {name: tuple(map(self.parameters.index, inputs)) for name, inputs in (causes or {}).items()}
        self._causes = [causes.get(name, self.differentiable) for name in self.outputs]
        self._fake = _shapes_of(reference, {self.parameters.index(k): v for k, v in (shapeless or {}).items()})
        self._register()
        self.backward = BackwardOp(self, schema) if differentiable else None

    def _define(self, name: str, schema: str, reference: Callable, parameters: list[str]) -> None:
        self.name, self.reference, self.parameters = name, reference, parameters
        _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.kernel = getattr(getattr(torch.ops, NAMESPACE), name).default
        runs = torch._C._dispatch_has_kernel_for_dispatch_key
        # What runs each backend's kernel.
        self.kernels = {
            backend: self.kernel
            for backend, (_, key) in BACKENDS.items()
            if backend != "triton" and runs(f"{NAMESPACE}::{name}", key) and (backend != "cuda" or native.cuda_loaded)
        }
        stem = name.removesuffix("_backward")
        if HAS_TRITON and (Path(__file__).parent / "triton" / f"{stem}.py").exists():
            _triton_library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
            self._launch = _launcher(stem, name)
            _triton_library.impl(name, self._launch, BACKENDS["triton"][1])
            self.kernels["triton"] = getattr(getattr(torch.ops, f"{NAMESPACE}_triton"), name).default
        self._choose_automatically()
        kinds = [str(a.type) for a in self.kernel._schema.arguments]
        self._first = kinds.index("Tensor")
        # Which arguments may be tensors, which are none, and the order that puts the two together again.
        self._tensors = [i for i, kind in enumerate(kinds) if "Tensor" in kind]
        self._constants = [i for i, kind in enumerate(kinds) if "Tensor" not in kind]
        self._order = [(self._tensors + self._constants).index(i) for i in range(len(kinds))]
        OPS[name] = self

    def _choose_automatically(self) -> None:
        fast = [backend for backend in reversed(self.kernels) if backend != "triton" or not INTERPRETS]
        self._automatic = {BACKENDS[backend][0]: backend for backend in fast}

    def forget(self, backend: str) -> None:
        """The kernel of a backend that turned out not to run here."""
        self.kernels.pop(backend, None)
        self._choose_automatically()

    def _register(self) -> None:
        _library.impl(self.name, _fresh(self.reference), "CompositeExplicitAutograd")
        libraries = [(_library, self.kernel)]
        if "triton" in self.kernels:
            libraries.append((_triton_library, self.kernels["triton"]))
        for library, kernel in libraries:
            torch.library.register_fake(kernel.name(), self._fake, lib=library)
            torch.library.register_vmap(kernel.name(), functools.partial(self._vmap, kernel), lib=library)
            if self.differentiable:  # for torch.compile, and whoever else calls the operator itself
                named = "triton" if library is _triton_library else None
                library.impl(self.name, functools.partial(self._with_gradient, named), "Autograd")

    def _with_gradient(self, name: str | None, *args):
        """The operator as autograd's layer of the dispatcher sees it."""
        chosen = name or self._registered(args[self._first].device.type)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            with enable_single_level_autograd_function():
                return _Differentiable.apply_here(self, chosen, *args)
        return self.run(chosen, args)

    def _registered(self, device: str) -> str:
        """The backend whose kernel the dispatcher runs on a device."""
        kernels = (b for b in self.kernels if b != "triton" and BACKENDS[b][0] == device)
        return next(kernels, "reference")

    def __repr__(self) -> str:
        return f"<lps_kernels op {self.kernel._schema}>"

    def has_kernel(self, name: str) -> bool:
        """Whether the named backend has a kernel for this op."""
        return name in self.kernels

    def choose(self, device: str, name: str | None = None) -> str:
        """The backend that runs on `device`: the named one or an error, else the fastest that there is."""
        if name is None:
            name = _traced_backend if torch.compiler.is_compiling() else _named_backend.get() or _passed_on()
        if name is None:
            return self._automatic.get(device, "reference")
        if name != "reference" and (name not in self.kernels or BACKENDS[name][0] != device):
            _check_name(name)
            if BACKENDS[name][0] != device:
                raise RuntimeError(f"backend {name!r}: {self.name} got tensors on {device}")
            raise RuntimeError(f"backend {name!r}: {self.name} is not available: {self._why_not(name)}")
        return name

    def _why_not(self, name: str) -> str:
        missing = {"cpu": native.reason, "cuda": native.cuda_reason, "triton": NO_TRITON}
        return missing[name] or "it has no such kernel, see python -m lps_kernels.info"

    def __call__(self, *args, backend: str | None = None):
        device = args[self._first].device.type
        chosen = self.choose(device, backend)
        if chosen == "reference":
            return full_precision(device, self.reference, *args)
        if torch.compiler.is_compiling():  # the operator, whose gradient the compiler finds registered
            return self.kernels[chosen](*_contiguous(args))
        if self.differentiable and is_differentiated(*[args[i] for i in self.differentiable]):
            return _Differentiable.call(self, chosen, *args)
        return self.run(chosen, args)

    def run(self, backend: str, args: Sequence):
        """The backend's kernel; one in Triton without the dispatcher, whose way into Python takes half of a call."""
        if backend == "triton" and _nobody_looks(args):
            return self._launch(*args)
        with torch._C._AutoDispatchBelowAutograd():  # whoever calls has seen to the gradient
            return self.kernels.get(backend, self.kernel)(*args)

    def keep(self, ctx, inputs: tuple, output, start: int = 0) -> None:
        """What a gradient needs of a call, kept in its context; `start` counts what precedes the arguments there."""
        ctx.constants = [inputs[i] for i in self._constants]
        ctx.set_materialize_grads(False)
        tensors = [inputs[i] for i in self._tensors]
        if isinstance(output, tuple):
            needed = ctx.needs_input_grad
            constant = [
                o
                for o, causes in zip(output, self._causes)
                if not o.is_floating_point() or not any(needed[i + start] for i in causes)
            ]
            if constant:
                ctx.mark_non_differentiable(*constant)
            tensors += [output[i] for i in self.saves]
        elif self.saves:
            tensors.append(output)
        ctx.save_for_backward(*tensors)

    def backpropagate(self, ctx, backend: str, grads: tuple, start: int = 0) -> tuple:
        """Gradients of the arguments of a call, None where none is wanted."""
        gradients: list[Tensor | None] = [None] * len(self._order)
        if all(g is None for g in grads):
            return tuple(gradients)
        count, saved = len(self._tensors), ctx.saved_tensors
        parts = [*saved[:count], *ctx.constants]
        needed = ctx.needs_input_grad  # a new tuple each time
        needs = [needed[i + start] for i in self.differentiable]
        found = self.gradient(backend, needs, grads, [parts[i] for i in self._order], saved[count:])
        for i, need, g in zip(self.differentiable, needs, found):
            if need:
                gradients[i] = g
        return tuple(gradients)

    def gradient(self, name: str, needs: list[bool], grads: tuple, args: list, saved: Sequence[Tensor]) -> tuple:
        """Gradients of the differentiable arguments; those that `needs` leaves out may be anything."""
        if self.backward is None:
            return full_precision(args[self._first].device.type, _vector_jacobian_product, self, needs, grads, args)
        mask = sum([1 << i for i, need in enumerate(needs) if need])
        if torch.compiler.is_compiling():
            grads = _contiguous(grads)
        known = self.backward.has_kernel(name)
        if not known or torch.is_grad_enabled() or torch.compiler.is_compiling():
            chosen = name if known else "reference"
            gradients = self.backward(*grads, *args, *saved, mask, backend=chosen)
        else:
            gradients = self.backward.run(name, (*grads, *args, *saved, mask))
        return gradients if isinstance(gradients, tuple) else (gradients,)

    def _vmap(self, kernel, info, in_dims, *args):
        """Fold the mapped axis into the batch axis that every tensor leads with; a seed has none, so then loop."""
        size = info.batch_size
        if "seed" in self.parameters:
            slices = [[a.select(d, i) if d is not None else a for a, d in zip(args, in_dims)] for i in range(size)]
            outs = [kernel(*s) for s in slices]
            if isinstance(outs[0], Tensor):
                return torch.stack(outs), 0
            return tuple(map(torch.stack, zip(*outs))), (0,) * len(outs[0])
        folded = [
            (a.movedim(d, 0) if d is not None else a.expand(size, *a.shape)).flatten(0, 1)
            if isinstance(a, Tensor)
            else a
            for a, d in zip(args, in_dims)
        ]
        out = kernel(*folded)
        if isinstance(out, Tensor):
            return out.unflatten(0, (size, out.shape[0] // size)), 0
        return tuple(o.unflatten(0, (size, o.shape[0] // size)) for o in out), (0,) * len(out)


def _forget_cuda() -> None:
    if not native.cuda_runs():
        for op in OPS.values():
            op.forget("cuda")


if native.cuda_loaded:  # what its devices are is known when CUDA is initialized, now or later
    torch.cuda._lazy_call(_forget_cuda)


def op(**options) -> Callable[[Callable], Op]:
    """Decorator: make an `Op`, named like the function less leading underscores, of a reference."""
    return lambda reference: Op(reference, **options)


class BackwardOp(Op):
    """`<name>_backward`: gradients of the outputs, then the arguments, then the saved outputs, then which are needed.

    needs is a bit mask over the differentiable arguments; a gradient that is not needed comes back empty.
    """

    def __init__(self, forward: Op, schema: str) -> None:
        self.forward = forward
        returns = [r.type for r in forward.kernel._schema.returns]
        if len(returns) != len(forward.outputs):
            raise ValueError(f"{forward.name}: expected a name for each of {len(returns)} outputs")
        inputs, _ = schema[1:].rsplit(") ->", 1)
        grads = [f"grad_{name}" for name in forward.outputs]
        saved = [f"saved_{forward.outputs[i]}" for i in forward.saves]
        parts = [f"Tensor? {g}" for g in grads] + [inputs] + [f"Tensor {s}" for s in saved] + ["SymInt needs"]
        count = len(forward.differentiable)
        out = "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"
        self.grad_count = len(grads)
        self._define(
            f"{forward.name}_backward",
            f"({', '.join(parts)}) -> {out}",
            self._reference,
            [*grads, *forward.parameters, *saved, "needs"],
        )
        self.outputs = tuple(f"grad_{forward.parameters[i]}" for i in forward.differentiable)
        self.saves, self.backward = (), None
        self.differentiable = (*range(len(grads)), *(i + len(grads) for i in forward.differentiable))
        self._causes = [self.differentiable] * count
        self._register()

    def _split(self, args: Sequence) -> tuple[tuple, tuple, list[bool]]:
        start = self.grad_count
        needs = [bool(args[-1] >> i & 1) for i in range(len(self.forward.differentiable))]
        return tuple(args[:start]), tuple(args[start : start + len(self.forward.parameters)]), needs

    def _reference(self, *args):
        grads, inputs, needs = self._split(args)
        found = _vector_jacobian_product(self.forward, needs, grads, inputs)
        like = next(a for a in args if isinstance(a, Tensor))
        found = tuple(like.new_empty(0) if g is None else g for g in found)
        return found if len(found) > 1 else found[0]

    def _fake(self, *args):
        _, inputs, needs = self._split(args)
        wanted = [inputs[i] for i in self.forward.differentiable]
        like = next(a for a in args if isinstance(a, Tensor))
        found = tuple(
            like.new_empty(0) if t is None or not need else torch.empty_like(t, memory_format=torch.contiguous_format)
            for t, need in zip(wanted, needs)
        )
        return found if len(found) > 1 else found[0]


def full_precision(device: str, function: Callable, *args):
    """A call without autocast, which would round the factors of products of matrices."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return function(*args)
    with torch.autocast(device, enabled=False):
        return function(*args)


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether a gradient of any of these may be wanted: reverse mode, forward mode or a torch.func transform."""
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    if not torch._C._are_functorch_transforms_active() and (
        torch.compiler.is_compiling() or forward_ad._current_level < 0
    ):
        return False
    return any(t is not None and t.is_floating_point() for t in tensors)


_PLAIN = {Tensor, torch.nn.Parameter, type(None), bool, int, float}


def _nobody_looks(args: Sequence) -> bool:
    """Whether no compiler, tracer, mode, profiler or subclass of Tensor wants to see the operator that is called."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state()
        or torch.autograd._profiler_enabled()
    ) and _PLAIN.issuperset(map(type, args))


def _contiguous(args: Sequence) -> tuple:
    """Copies that kernels would make of what is strided, where the compiler fuses them with what comes before."""
    return tuple(a.contiguous() if isinstance(a, Tensor) else a for a in args)


def _launcher(stem: str, name: str) -> Callable:
    """The launcher `name` of triton/<stem>.py, which is imported by the first call: Triton takes a second to import."""

    found = None

    def launch(*args):
        nonlocal found
        if found is None:
            found = getattr(importlib.import_module(f"{__package__}.triton.{stem}"), name)
        return found(*args)

    return launch


def _fresh(reference: Callable) -> Callable:
    """A reference whose outputs are what an operator's must be, and what the fake says: contiguous and no view."""

    def run(*args):
        tensors = [a for a in args if isinstance(a, Tensor)]

        def fresh(o: Tensor) -> Tensor:
            if any(torch._C._is_alias_of(o, a) for a in tensors):
                o = o.clone(memory_format=torch.contiguous_format)
            tensors.append(o.contiguous())
            return tensors[-1]

        out = reference(*args)
        return fresh(out) if isinstance(out, Tensor) else tuple(map(fresh, out))

    return run


def _shapes_of(reference: Callable, shapeless: dict[int, object]) -> Callable:
    """The fake of an op: what its reference returns, without strides of its own."""

    def fake(*args):
        out = reference(*[shapeless.get(i, a) for i, a in enumerate(args)])
        if isinstance(out, Tensor):
            return out.new_empty(out.shape)
        return tuple(o.new_empty(o.shape) for o in out)

    return fake


class _Differentiable(torch.autograd.Function):
    """An op with its gradient, in a fifth of the time of what torch.library would make of the same two functions."""

    generate_vmap_rule = True

    @classmethod
    def call(cls, *args):
        """`apply`, which spends 25 us a call on the defaults of `forward`'s arguments; there are none."""
        return cls.apply(*args) if torch._C._are_functorch_transforms_active() else cls.apply_here(*args)

    @classmethod
    def apply_here(cls, *args):
        """`apply` at one level of torch.func's transforms, for whom the dispatcher has come to it."""
        return super(torch.autograd.Function, cls).apply(*unwrap_dead_wrappers(args))

    @staticmethod
    def forward(op, backend, *args):
        return op.run(backend, args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.op, ctx.backend = inputs[:2]
        ctx.op.keep(ctx, inputs[2:], output, 2)

    @staticmethod
    def backward(ctx, *grads):
        return None, None, *ctx.op.backpropagate(ctx, ctx.backend, grads, 2)


def _vector_jacobian_product(op: Op, needs: Sequence[bool], grads: tuple, args: tuple) -> tuple:
    """Gradients of the reference. torch.func.vjp, because torch.autograd.grad does not compile inside a backward."""
    wanted = [i for i, need in zip(op.differentiable, needs) if need and args[i] is not None]
    kept = [i for i, g in enumerate(grads) if g is not None]
    found: dict[int, Tensor] = {}
    if wanted and kept:

        def selected(*chosen):
            full = list(args)
            for i, a in zip(wanted, chosen):
                full[i] = a
            out = op.reference(*full)
            return tuple((out if isinstance(out, tuple) else (out,))[i] for i in kept)

        _, vjp = torch.func.vjp(selected, *(args[i] for i in wanted))
        found = dict(zip(wanted, vjp(tuple(grads[i] for i in kept))))
    for i in wanted:
        if i not in found:
            found[i] = torch.zeros_like(args[i])
    return tuple(found.get(i) for i in op.differentiable)
