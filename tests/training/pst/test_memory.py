"""The count of live bytes, and what PST spares against movement pruning."""

import pytest
import torch
from gistserve.compress.sparse import Pattern
from gistserve.training.pst.memory import LiveBytes, training_tensors
from gistserve.training.pst.pruner import Method, PruneSettings, prune
from transformers import BertConfig, BertForSequenceClassification


def test_bytes_are_counted_from_making_to_freeing() -> None:
    held = torch.zeros(1000)  # 4,000 bytes
    with LiveBytes([held, held[10:]]) as live:
        a = held + 1
        b = a.view(10, 100)  # shares a's storage
        del a
        c = b.double()  # 8,000
        del b, c
        held.add_(1)
        small = held[:10].clone()
    assert live.held == 4000
    assert live.peak == 4000 + 4000 + 8000
    del small


def test_backward_and_optimizer_are_seen() -> None:
    weight = torch.nn.Parameter(torch.ones(100, 100))
    optimizer = torch.optim.AdamW([weight], fused=True)
    with LiveBytes([weight]) as live:
        (weight * 2).sum().backward()
        optimizer.step()
    assert live.peak >= 4 * 40_000  # weight, gradient, two moments
    held = LiveBytes(training_tensors(torch.nn.ParameterList([weight]), optimizer)).held
    assert held == 4 * 40_000 + 4  # and the step


def peak(method: Method) -> tuple[int, int]:
    """Held and peak bytes of a training step of a model that is wide for its batch."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=50, hidden_size=256, intermediate_size=1024, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=16,
        )
    )  # fmt: skip
    pruner = prune(model, PruneSettings(method=method, sparsity=0.9))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ids = torch.randint(0, 50, (2, 8))

    def step() -> None:
        model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.update_masks(0.9)

    step()
    with LiveBytes(training_tensors(model, optimizer)) as live:
        step()
    return live.held, live.peak


def test_pst_needs_less_than_movement_pruning() -> None:
    pruned = 4 * 2 * (4 * 256 * 256 + 2 * 256 * 1024)  # bytes of the pruned weights
    held, most = peak("pst")
    held_by_movement, most_by_movement = peak("movement")
    # Weight and score of each pruned weight, with two moments; frozen ones have only themselves.
    assert held_by_movement > 6 * pruned
    assert held < 2 * pruned
    # Gradients of both come on top.
    assert most_by_movement > 8 * pruned
    # On top of what is held, PST's step has less than one more copy of the pruned weights.
    assert most - held < pruned
    assert most < most_by_movement / 3


@pytest.mark.parametrize("method", ["pst", "movement", "magnitude"])
def test_masks_are_one_bit_a_weight(method: Method) -> None:
    model = BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                   num_attention_heads=2)
    )  # fmt: skip
    pruner = prune(model, PruneSettings(method=method, sparsity=0.9, pattern=Pattern.balanced))
    masks = [b for name, b in model.named_buffers() if name.endswith("mask_bits")]
    assert len(masks) == len(pruner.layers) == 6
    assert sum(mask.nbytes for mask in masks) == 6 * 64 * 64 // 8
