"""Kernels that launch at once: what Triton compiled for a class of arguments is kept under a short key.

Triton's own launch binds the arguments by name, makes a key of strings and looks at every global that the kernel
names, each time: two thirds of what a call costs. Versions 3.6 to 3.9 launch what they compiled in the same way; any
other takes Triton's own path, as do calls that hooks are to see.
"""

from __future__ import annotations

from collections.abc import Callable

import triton
from torch import Tensor
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lps_kernels.op import INTERPRETS, TRITON_VERSION

_KNOWN = TRITON_VERSION.split(".")[:2] in (["3", "6"], ["3", "7"], ["3", "8"], ["3", "9"])
_INT32 = 1 << 31
# What of an argument Triton compiles for: its value; its type and whether it is one or a multiple of 16; its type; or
# nothing, of numbers whose type the kernel says.
_VALUE, _CLASS, _TYPE, _FLOAT = range(4)


def entry(do_not_specialize: tuple[str, ...] | list[str] = ()) -> Callable[[Callable], object]:
    """Decorator of a kernel that launchers call, as `triton.jit` with the same arguments."""

    def wrap(function: Callable):
        if INTERPRETS or not _KNOWN:
            return triton.jit(function, do_not_specialize=do_not_specialize)
        return Entry(function, do_not_specialize=do_not_specialize)

    return wrap


def _hooked() -> bool:
    runtime = knobs.runtime
    return any(getattr(hook, "calls", hook) for hook in (runtime.launch_enter_hook, runtime.launch_exit_hook))


class Entry(JITFunction):
    """A kernel, called as kernel[grid](*arguments, **constants_and_options)."""

    def __init__(self, function: Callable, **options) -> None:
        super().__init__(function, **options)
        self._held: dict[tuple, tuple] = {}
        self._kinds = [
            _VALUE if p.is_constexpr else _FLOAT if p.annotation_type else _TYPE if p.do_not_specialize else _CLASS
            for p in self.params
        ]
        self._constants = {p.name for p in self.params if p.is_constexpr}

    def run(self, *args, grid, warmup, **kwargs):
        device = driver.active.get_current_device()  # raises in a process forked after CUDA began
        key = (device, *self._key(args), *kwargs.items())
        held = self._held.get(key)
        if held is None or warmup or _hooked():
            compiled = super().run(*args, grid=grid, warmup=warmup, **kwargs)
            self._hold(key, compiled, args, kwargs)
            return compiled
        compiled, launch, function, metadata, constants = held
        stream = driver.active.get_current_stream(device)
        launch(grid[0], 1, 1, stream, function, metadata, None, None, None, *args, *constants)
        return compiled

    def _key(self, args: tuple) -> list:
        key: list = []
        for a, kind in zip(args, self._kinds):
            if kind == _VALUE or a is None:
                key.append(a)
            elif kind == _FLOAT:
                continue
            elif isinstance(a, Tensor):
                key += (a.dtype, a.data_ptr() % 16 == 0)
            elif type(a) is int:
                small = -_INT32 <= a < _INT32
                key.append((small, a == 1, a % 16 == 0) if kind == _CLASS else small)
            elif isinstance(a, tuple):
                key += (len(a), *((each.dtype, each.data_ptr() % 16 == 0) for each in a))
            else:
                raise TypeError(f"{self.__name__}: expected tensors, tuples of them and integers, got {a!r}")
        return key

    def _hold(self, key: tuple, compiled, args: tuple, kwargs: dict) -> None:
        """Keep what was compiled, where all that came by name are constants, options, and nothing that is launched."""
        rest = [p.name for p in self.params[len(args) :]]
        if compiled is not None and self._constants.issuperset(rest):
            constants = tuple(kwargs[name] for name in rest)
            self._held[key] = (compiled, compiled.run, compiled.function, compiled.packed_metadata, constants)
