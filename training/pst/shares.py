"""How much of a model is trained."""

from typing import Any

from .pruner import Pruner


def parameter_shares(pruner: Pruner) -> dict[str, Any]:
    """Counts of parameters, and the share trained: of the model, and of its weights and scores.

    Scores are as many as pruned weights. Movement pruning trains them beside the weights, and the
    "1.5% of parameters" of arXiv 2205.11005 is relative to both together.
    """
    pruned = sum(layer.weight.numel() for layer in pruner.layers.values())
    added = sum(p.numel() for layer in pruner.layers.values() for p in layer.method_parameters())
    parameters = list(pruner.model.parameters())
    model = sum(parameter.numel() for parameter in parameters) - added
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return {
        "model_parameters": model,
        "pruned_parameters": pruned,
        "trained_parameters": trained,
        "trained_share_of_model": trained / model,
        "trained_share_of_weights_and_scores": trained / (model + pruned),
    }
