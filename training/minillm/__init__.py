"""MiniLLM: distillation of language models by the reverse KL divergence (arXiv 2306.08543).

Beside it the baselines: fine-tuning, word-level and sequence-level distillation.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..generate import MakeGenerate
    from .config import MiniLLMConfig


def train_minillm(
    config: "MiniLLMConfig | str | Path",
    *,
    resume: bool = False,
    make_generate: "MakeGenerate | None" = None,
) -> Path:
    """See `run.train_minillm`, which this imports when called: the Trainer is slow to import."""
    from .run import train_minillm as run

    return run(config, resume=resume, make_generate=make_generate)
