"""Triton's kernels on the CPU, for a dry run."""

from __future__ import annotations

import os
from typing import Any


def interpret_kernels() -> None:
    """Have every kernel of this process interpreted; to be called before any is decorated."""
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_index(tensor: type, scope: Any) -> None:
        patch_tensor(tensor, scope)
        # Triton 3.6 calls int() on an array of one element, which numpy 2.4 refuses.
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_and_index
