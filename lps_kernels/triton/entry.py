"""Kernels that launch at once: what Triton compiled for a class of arguments is kept under a short key.

Triton's own launch binds the arguments by name, makes a key of strings and looks at every global that the kernel
names, each time: two thirds of what a call costs. Versions 3.6 to 3.9 launch what they compiled in the same way; any
other takes Triton's own path, as do calls that hooks are to see.
"""

from __future__ import annotations

import functools
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
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


class Entry(JITFunction):
    """A kernel, called as kernel[grid](*arguments, **constants_and_options)."""

    def __init__(self, function: Callable, **options) -> None:
        super().__init__(function, **options)
        self._held: dict[tuple, tuple] = {}
        self._classes: dict[tuple, Callable[[tuple], tuple]] = {}
        self._kinds = [
            _VALUE if p.is_constexpr else _FLOAT if p.annotation_type else _TYPE if p.do_not_specialize else _CLASS
            for p in self.params
        ]
        self._constants = {p.name for p in self.params if p.is_constexpr}

    def __getitem__(self, grid: tuple[int]) -> Callable:
        return functools.partial(self.run, grid=grid, warmup=False)

    def run(self, *args, grid, warmup, **kwargs):
        active = driver.active
        device = active.get_current_device()  # raises in a process forked after CUDA began
        types = tuple(map(type, args))
        classes = self._classes.get(types) or self._classes_of(types)
        key = (device, types, classes(args), *kwargs, *kwargs.values())
        held = self._held.get(key)
        if held is None or warmup or _hooked():
            compiled = super().run(*args, grid=grid, warmup=warmup, **kwargs)
            self._hold(key, compiled, args, kwargs)
            return compiled
        compiled, launch, function, metadata, constants = held
        stream = active.get_current_stream(device)
        launch(grid[0], 1, 1, stream, function, metadata, None, None, None, *args, *constants)
        return compiled

    def _classes_of(self, types: tuple) -> Callable[[tuple], tuple]:
        """What makes arguments of these types into the class that Triton compiles for: one expression, written out. A
        loop over the arguments took a third of the time of a call.
        """
        parts = []
        for i, (kind, each) in enumerate(zip(self._kinds, types)):
            if kind == _VALUE:
                parts.append(f"a[{i}]")
            elif each is type(None) or kind == _FLOAT:
                continue
            elif issubclass(each, Tensor):
                parts.append(f"a[{i}].dtype, a[{i}].data_ptr() % 16 == 0")
            elif each is int:
                parts.append(f"-{_INT32} <= a[{i}] < {_INT32}")
                if kind == _CLASS:
                    parts.append(f"a[{i}] == 1, a[{i}] % 16 == 0")
            elif each is tuple:
                parts.append(f"tuple([(each.dtype, each.data_ptr() % 16 == 0) for each in a[{i}]])")
            else:
                raise TypeError(f"{self.__name__}: expected tensors, tuples of them and integers, got {each.__name__}")
        self._classes[types] = classes = eval(f"lambda a: ({', '.join([*parts, ''])})")
        return classes

    def _hold(self, key: tuple, compiled, args: tuple, kwargs: dict) -> None:
        """Keep what was compiled, where all that came by name are constants, options, and nothing that is launched."""
        rest = [p.name for p in self.params[len(args) :]]
        if compiled is not None and self._constants.issuperset(rest):
            constants = tuple(kwargs[name] for name in rest)
            self._held[key] = (compiled, compiled.run, compiled.function, compiled.packed_metadata, constants)
