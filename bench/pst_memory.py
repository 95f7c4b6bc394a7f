"""Memory of a training step by method, for a model of BERT-base's shape with random weights.

What weights say does not matter to it, and the shape that the paper uses needs no download.
"""

import gc
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from ..training.pst.memory import LiveBytes, training_tensors
from ..training.pst.pruner import Method, PruneSettings, prune
from ..training.pst.shares import parameter_shares

METHODS: tuple[Method, ...] = ("dense", "magnitude", "movement", "pst")
BATCH, TOKENS = 8, 64


def measure_memory() -> dict[str, Any]:
    """Bytes held between steps and at most in one, for each method; float32, AdamW."""
    methods = {}
    for method in METHODS:
        methods[method] = _measure(method)
        gc.collect()
    return {
        "model": "BERT-base (random weights), classification",
        "batch": [BATCH, TOKENS],
        "dtype": "float32",
        "counted": "live tensor bytes at every operator of one training step",
        "methods": methods,
    }


def _measure(method: Method) -> dict[str, Any]:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig())
    pruner = prune(model, PruneSettings(method=method, sparsity=0.9))
    model.classifier.requires_grad_(True)
    shares = parameter_shares(pruner)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ids = torch.randint(0, 30_000, (BATCH, TOKENS))
    labels = torch.randint(0, 2, (BATCH,))

    def step() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.update_masks(0.9)

    step()
    with LiveBytes(training_tensors(model, optimizer)) as live:
        step()
    return {"held_bytes": live.held, "peak_bytes": live.peak, **shares}
