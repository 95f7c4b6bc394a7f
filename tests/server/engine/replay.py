"""A CUDA graph's behaviour on the CPU: what a forward did to tensors, done again without Python.

The forward is traced at its concrete shapes down to torch's operators; attention is one of them,
as on CUDA. A replay runs the same operators on the same tensors. What depended on a tensor's values
when it was traced fails there, or is as wrong later as it would be in a CUDA graph.
"""

import pytest
import torch
from gistserve.server.engine import attention_backend, model_runner
from torch.fx.experimental.proxy_tensor import make_fx


class Tape:
    """Captures steps, and counts how often each was replayed.

    The first one it is given is only run: a runner tries whether a step can be captured.
    """

    def __init__(self):
        self.replays = []

    def capture(self, run):
        run()
        index = len(self.replays)
        self.replays.append(0)
        graph = make_fx(run)() if index else run

        def replay():
            self.replays[index] += 1
            graph()

        return replay


def attention_operator(
    query, key, value, key_cache, value_cache, metadata, *, scale, sliding_window, softcap, sinks
):
    """The registered operator, where the public function has another way on the CPU."""
    return torch.ops.gistserve.paged_attention(
        query,
        key,
        value,
        key_cache,
        value_cache,
        metadata.query_start_loc,
        metadata.seq_lens,
        metadata.block_table,
        metadata.slot_mapping,
        metadata.max_query_len,
        metadata.max_seq_len,
        scale,
        sliding_window,
        softcap,
        sinks,
    )


@pytest.fixture
def tape(monkeypatch):
    """Runners on the CPU capture their decode steps, for batches of 4 or multiples of it."""
    tape = Tape()
    monkeypatch.setattr(model_runner, "capture_for", lambda device: lambda: tape.capture)
    monkeypatch.setattr(model_runner, "batch_sizes", lambda most: list(range(4, most + 1, 4)))
    monkeypatch.setattr(attention_backend, "paged_attention", attention_operator)
    return tape
