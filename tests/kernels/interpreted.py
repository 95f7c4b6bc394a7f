"""Runs Triton kernels on CPU tensors, in this process, for as long as a context lasts.

``TRITON_INTERPRET=1`` decides when a kernel is decorated, so it would turn every kernel of the
process into an interpreted one, for good. Here the decorated kernels stay what they are, and the
context replaces what a launch (``kernel[grid](...)``) and a call from another kernel do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest


@contextmanager
def interpreted() -> Iterator[None]:
    """Inside, every ``@triton.jit`` function runs on CPU tensors through Triton's interpreter.

    The interpreter's limits hold: bf16 ``tl.dot`` and bf16 arithmetic silently give garbage,
    inline assembly and libdevice fail, and races, layouts and shared memory are not modelled. The
    calling test is skipped where Triton is not installed.
    """
    pytest.importorskip("triton")
    import triton
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    functions: dict[Callable[..., Any], interpreter.InterpretedFunction] = {}

    def interpret(function: JITFunction) -> interpreter.InterpretedFunction:
        # Hashing a JITFunction would parse it for compilation.
        if function.fn not in functions:
            functions[function.fn] = interpreter.InterpretedFunction(function.fn)
        return functions[function.fn]

    def launch(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return interpret(self).run(*args, grid=grid, warmup=warmup, **kwargs)

    def call(self: JITFunction, *args: Any, **kwargs: Any) -> Any:
        # The language is patched already; InterpretedFunction.__call__ would patch it for good.
        return interpret(self).rewrite()(*args, **kwargs)

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_index(tensor: type, scope: Any) -> None:
        patch_tensor(tensor, scope)
        # Triton 3.6 calls int() on an array of one element, which numpy 2.4 refuses.
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    language = interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    with pytest.MonkeyPatch.context() as patch, triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        patch.setattr(interpreter, "_patch_lang_tensor", patch_tensor_and_index)
        patch.setattr(JITFunction, "run", launch)
        patch.setattr(JITFunction, "__call__", call)
        # Methods such as ``x.sum(axis=0)``: a JITFunction in a class does not bind to ``x``.
        for name, member in list(vars(tl.tensor).items()):
            if isinstance(member, JITFunction):
                patch.setattr(tl.tensor, name, _bound(member))
        try:
            yield
        finally:
            language.restore()


def _bound(function: Any) -> Any:
    return lambda *args, **kwargs: function(*args, **kwargs)
