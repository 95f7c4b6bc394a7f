"""What the Triton kernels are tried on, by the interpreter and on a GPU.

Every case compiles its own kernels on a GPU, so each brings several things at once.
"""

from typing import Any

import torch

# (new tokens, slots after the step): a decode step that is split, prompts with and without cached
# slots, a first token, a sequence without new tokens, one without slots, and tiles' edges.
MIXED = [(1, 300), (5, 5), (1, 1), (0, 0), (37, 137), (1, 0), (0, 20), (2, 129), (1, 65)]
DECODE = [(1, 700), (1, 1), (1, 64), (0, 0), (1, 129), (1, 0), (1, 257)]

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
CASES: dict[str, dict[str, Any]] = {
    "llama": {"heads": (8, 2, 128, 128), "dtype": BF16, "block_size": 16},
    "float16": {"heads": (4, 1, 128, 128), "dtype": FP16, "block_size": 32},
    "multi-head": {"heads": (2, 2, 64, 64), "dtype": BF16, "block_size": 16},
    "group of three, window": {
        "heads": (6, 2, 64, 64),
        "dtype": BF16,
        "block_size": 8,
        "sliding_window": 70,
    },
    "group of seven": {"heads": (7, 1, 64, 64), "dtype": BF16, "block_size": 64},
    "heads of 80, softcap": {
        "heads": (8, 1, 80, 80),
        "dtype": BF16,
        "block_size": 12,
        "softcap": 4.0,
    },
    "heads of 96, sinks": {
        "heads": (2, 1, 96, 96),
        "dtype": FP16,
        "block_size": 16,
        "sinks": True,
    },
    "heads of 256, window, softcap": {
        "heads": (4, 2, 256, 256),
        "dtype": BF16,
        "block_size": 16,
        "sliding_window": 100,
        "softcap": 3.0,
    },
    "keys of 192, values of 128": {
        "heads": (2, 2, 192, 128),
        "dtype": BF16,
        "block_size": 16,
    },
    "sinks, window": {
        "heads": (8, 1, 64, 64),
        "dtype": BF16,
        "block_size": 16,
        "sliding_window": 128,
        "sinks": True,
    },
    "more heads than rows": {"heads": (66, 1, 16, 16), "dtype": BF16, "block_size": 16},
    "float32, pages of one": {"heads": (4, 2, 32, 32), "dtype": FP32, "block_size": 1},
    "float32, everything": {
        "heads": (3, 1, 128, 128),
        "dtype": FP32,
        "block_size": 16,
        "sliding_window": 90,
        "softcap": 5.0,
        "sinks": True,
    },
    "float32, heads of 256": {"heads": (2, 1, 256, 256), "dtype": FP32, "block_size": 16},
}
