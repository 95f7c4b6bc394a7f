"""Numbers that the Triton kernels share."""

import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Stands for the logarithm of zero; finite, so that rows which have seen nothing yet can be
# subtracted from each other.
LOWEST = tl.constexpr(-1.0e30)
